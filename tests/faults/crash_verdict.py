"""What must be true after a crash, whatever it was: what the server says of tasks, held against their own record."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from styx.client import AsyncClient
from styx.models import Attempt, OutcomeKind, Task, TaskState
from tests.support.invariants import check_store
from tests.support.until import soon_true

PATIENCE_SECONDS = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One task of the load.

    Attributes:
        words: for the witness.
        ends: how it may end; the first is how it ends when nothing of it is lost.
    """

    words: tuple[str, ...] = ()
    ends: tuple[TaskState, ...] = (TaskState.SUCCEEDED,)
    exit_code: int | None = 0
    at_most_once: bool = False
    cancelled: bool = False


JOBS = (
    Job(),
    Job(),
    Job(words=("--exit", "3"), ends=(TaskState.FAILED,), exit_code=3),
    Job(at_most_once=True, ends=(TaskState.SUCCEEDED, TaskState.LOST)),
    Job(words=("--stubborn",), ends=(TaskState.CANCELLED,), exit_code=None, cancelled=True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a record."""

    word: str
    fence: int
    attempt: int
    pid: int


def record(witnesses: Path, task_id: str) -> list[Line]:
    """What a task has written down, over all its attempts."""
    path = witnesses / f"{task_id}.record"
    fields = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
    return [Line(word=word, fence=int(fence), attempt=int(number), pid=int(pid)) for word, fence, number, pid in fields]


def check_task(job: Job, task: Task, lines: Sequence[Line], *, may_run_again: bool) -> None:
    """One task: ended once, as it really did, never twice at once, never more often than is right."""
    assert task.state in job.ends, (task.state, task.message)
    words = Counter(line.word for line in lines)
    assert words["overlap"] == 0, lines
    starts = [line for line in lines if line.word == "start"]
    told = {attempt.fence: attempt.number for attempt in task.attempts}
    assert [(told.get(line.fence), line.fence) for line in starts] == [(line.attempt, line.fence) for line in starts]
    assert len({line.fence for line in starts}) == len(starts), "an attempt ran twice"
    # On a machine so slow that a server is away for a start window, the supervisor stops what nobody has recorded.
    may_run_again = may_run_again or any(_lapsed(attempt) for attempt in task.attempts)
    if job.at_most_once or not may_run_again:
        assert len(starts) <= 1, lines
    if task.state is TaskState.LOST:
        assert may_run_again, "nothing was lost, and it is LOST"
        return
    last = task.attempts[-1]
    assert starts[-1].fence == last.fence, "what ended it is not what ran last"
    assert last.outcome is not None
    if job.cancelled:
        assert last.outcome.kind in (OutcomeKind.CANCELLED, OutcomeKind.SUPERVISOR_LOST) or _lapsed(last), last
        return
    assert (last.outcome.kind, task.exit_code) == (OutcomeKind.EXITED, job.exit_code)
    assert [line.word for line in lines if line.fence == last.fence] == ["start", "end"]
    for attempt in task.attempts[:-1]:
        assert attempt.outcome is not None
        assert attempt.outcome.kind in _LOSSES, attempt


def _lapsed(attempt: Attempt) -> bool:
    return attempt.outcome is not None and attempt.outcome.message == "stopped: no server could be reached for too long"


_LOSSES = (OutcomeKind.REJECTED, OutcomeKind.LOST, OutcomeKind.SUPERVISOR_LOST)


async def check_logs(client: AsyncClient, task: Task, witnesses: Path) -> None:
    """The output of the last attempt: what was written, every byte, and sealed; of a killed one, how it began."""
    last = task.attempts[-1]
    assert last.outcome is not None
    stored: dict[str, bytes] = {"STDOUT": b"", "STDERR": b""}
    async for chunk in client.logs(task.id, attempt=last.number, follow=True):
        assert not chunk.gaps
        assert chunk.offset == len(stored[chunk.stream.name])
        stored[chunk.stream.name] += chunk.data
    for name, data in stored.items():
        copy = witnesses / f"{last.fence}.{name.lower()}"
        source = copy.read_bytes() if copy.exists() else b""
        if last.outcome.kind is not OutcomeKind.EXITED:
            # Killed between the two writes, or its supervisor before it had read the pipe.
            assert source.startswith(data), name
            continue
        assert hashlib.sha256(data).digest() == hashlib.sha256(source).digest(), (name, len(data), len(source))

    async def is_sealed() -> bool:
        streams = (await client.get_task(task.id)).attempts[-1].logs
        assert not any(stream.corrupt for stream in streams)
        return all(stream.sealed for stream in streams)

    if last.outcome.kind is OutcomeKind.EXITED:
        await soon_true(is_sealed, f"the output of {task.id} is sealed", seconds=PATIENCE_SECONDS)


async def check_database(connection: asyncpg.Connection, ids: Mapping[str, Job]) -> None:
    """Nothing lives on in the tables, and there is no task that nobody submitted."""
    await check_store(connection)
    assert await connection.fetchval("select count(*) from live_attempts") == 0
    rows = await connection.fetch("select 't' || id as id from tasks")
    assert {row["id"] for row in rows} == set(ids)
