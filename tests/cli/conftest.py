"""What the tests of the command line share: a service in memory, and a data folder that leads to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.memory_service import Running, serving


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with serving(tmp_path / "data") as running:
        yield running


@pytest.fixture
def here(running: Running) -> Path:
    """The data folder that a command finds its server in."""
    return running.data_dir
