"""Scenarios with a crew of light agents work from end to end, as small as can be; no word about speed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from benchmarks.bench import Bench
from benchmarks.catalog import load
from benchmarks.one import run_one


@pytest.fixture
def folder() -> Iterator[Path]:
    """One with a short path: a database's socket has to have one."""
    with TemporaryDirectory(prefix="styx-bench-") as made:
        yield Path(made)


@pytest.mark.parametrize(
    ("name", "figures"),
    [
        ("control_plane", ["tasks through"]),
        ("deep_queue", ["1,000,000 waiting", "memory of the leader"]),
        ("fairness", ["start of ten p50", "start of ten p99"]),
    ],
)
async def test_a_crew_takes_what_is_submitted(folder: Path, name: str, figures: list[str]) -> None:
    outcome = await run_one(load(name), Bench(folder, repeats=1, scale=0.001))
    assert outcome.error == ""
    assert [figure.name for figure in outcome.figures] == figures
    assert all(figure.value > 0 for figure in outcome.figures)
