"""Fixtures for tests of the agent.

`supervisor`: a real supervisor behind a driver, once with control groups (where they can be used) and once without.
`data_dir`: an empty directory that only this user can enter. `tag`: a number to find a test's own processes by.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.supervisor_driver import SupervisorDriver

_TAGS = itertools.count(os.getpid() * 1000)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    path = tmp_path / "agent"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def tag() -> str:
    """Seconds for `sleep` that no other test sleeps."""
    return f"1000.{next(_TAGS)}"


@pytest.fixture(params=["cgroup", "process_group"])
def supervisor(request: pytest.FixtureRequest, data_dir: Path) -> Iterator[SupervisorDriver]:
    driver = SupervisorDriver(data_dir, *([] if request.param == "cgroup" else ["--no-cgroup"]))
    try:
        driver.launch()
        if request.param == "cgroup" and not driver.welcome["cgroup"]:
            pytest.skip("control groups cannot be used here")
        yield driver
    finally:
        driver.close()


@pytest.fixture
def plain_supervisor(data_dir: Path) -> Iterator[SupervisorDriver]:
    """Not started yet; for tests in which the way of isolation does not matter."""
    driver = SupervisorDriver(data_dir)
    yield driver
    driver.close()
