"""`kill -9` at every failpoint, each with a server, an agent and a load of its own; and errors of the database.

The crashes run beside each other, because most of their time is waiting for programs to start; a test waits for its
own.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from styx.failpoints import POINTS
from tests.faults.crash import Crash
from tests.support.postgres import DatabaseFactory
from tests.support.stack import Stack

_AT_ONCE = 5
# Only an agent that falls silent loses anything: its link dies when it has got its first orders, and stays away.
_SILENCE = {"server.lost.decided": "link.assign.received", "server.lost.committed": "link.assign.received"}
_AWAY = "away"
# One after the other in one server: a submission, a plan, output before and after its commit, an end, a seal.
_ERRORS = (
    "server.submit.received",
    "server.assign.planned",
    "server.log.received",
    "server.log.committed",
    "server.end.received",
    "server.seal.decided",
)


@pytest.fixture(scope="module")
async def crashes(
    request: pytest.FixtureRequest, databases_with_schema: DatabaseFactory
) -> AsyncIterator[dict[str, asyncio.Task[None]]]:
    """All crashes that were asked for, under way."""
    turn = asyncio.Semaphore(_AT_ONCE)

    async def run(name: str) -> None:
        # Who waits for a lease takes nobody's turn.
        wait = contextlib.nullcontext() if name in _SILENCE else turn
        async with wait, databases_with_schema.fresh() as database:
            with tempfile.TemporaryDirectory(prefix="styx-crash-") as folder:
                await Crash(_armed(name), Path(folder), database, silent=name in _SILENCE).run()

    items = [item for item in request.session.items if isinstance(item, pytest.Function) and item.path == request.path]
    names = [str(item.callspec.params["crash"]) for item in items if "crashes" in item.fixturenames]
    under_way = {name: asyncio.create_task(run(name)) for name in names}
    yield under_way
    for task in under_way.values():
        task.cancel()
    await asyncio.gather(*under_way.values(), return_exceptions=True)


def _armed(name: str) -> dict[str, str]:
    if name == _AWAY:
        return dict.fromkeys(_ERRORS, "error")
    return {name: "kill"} | ({_SILENCE[name]: "kill"} if name in _SILENCE else {})


_OF_MACHINES = {name for name in POINTS if name.split(".")[1] in {"rent", "release", "machine"}}
"""Reached only by who rents: tests/acceptance/test_rented.py."""


@pytest.mark.parametrize("crash", [*_SILENCE, _AWAY, *sorted(POINTS - _SILENCE.keys() - _OF_MACHINES)])
async def test_nothing_is_lost_and_nothing_runs_twice(crashes: dict[str, asyncio.Task[None]], crash: str) -> None:
    await crashes[crash]


def test_styx_up_hands_them_on_and_starts_again_what_has_died() -> None:
    points = {"server.submit.committed", "link.welcome.received", "supervisor.exit.journaled"}
    with tempfile.TemporaryDirectory(prefix="styx-crash-") as folder:
        marks = Path(folder) / "marks"
        marks.mkdir()
        stack = Stack(Path(folder) / "data")
        stack.env |= {
            "STYX_ENABLE_FAILPOINTS": "1",
            "STYX_FAILPOINTS": ";".join(f"{point}:kill" for point in points),
            "STYX_FAILPOINTS_ONCE_DIR": str(marks),
        }
        try:
            stack.good("up", "--detach", "--grpc-port", "0", "--http-port", "0")
            done = stack.styx("run", "--", "env")
            assert done.code == 0, done.talk
            assert "STYX_TASK_ID=t1" in done.text
            assert "FAILPOINTS" not in done.text
            assert {path.name for path in marks.iterdir()} == points
            assert all(path.read_text().endswith(" kill\n") for path in marks.iterdir())
        finally:
            stack.styx("down")
        assert not stack.processes()
