"""Looks at Styx from outside: at leases all the time, and at everything once it is quiet.

Tasks and output are read as clients read them; attempts, events and leases where they are stored.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from typing import Any

import asyncpg

import styx
from styx.models import LogChunk
from styx_server.core.states import OutcomeKind, TaskState
from tests.faults.database import Postgres
from tests.faults.history import Event, Recorder, now
from tests.support.until import soon_true

LOOK_SECONDS = 0.25
READERS = 8
STREAMS = {"STDOUT": 1, "STDERR": 2}

_LEASES = "select agent_id, epoch, lease_seq from agent_leases order by agent_id"
_ATTEMPTS = """
    select t.id, s.name as key, a.number, a.fence, a.agent_id, a.outcome, a.exit_code,
        (select extract(epoch from min(e.time)) * 1e9 from task_events e
            where e.task_id = a.task_id and e.attempt = a.number and e.kind = 'ended')::bigint as ended_at
    from attempts a join tasks t on t.id = a.task_id join task_specs s on s.id = t.spec_id order by a.fence
"""
_EVENTS = """
    select s.name as key, e.attempt, e.state, e.kind, e.message, (extract(epoch from e.time) * 1e9)::bigint as at
    from task_events e join tasks t on t.id = e.task_id join task_specs s on s.id = t.spec_id order by e.seq
"""
_STREAMS = """
    select s.name as key, t.id, l.attempt, l.fence, l.stream, l.stored_bytes, l.sealed, l.corrupt,
        coalesce(l.gaps, '[]') as gaps
    from log_streams l join tasks t on t.id = l.task_id join task_specs s on s.id = t.spec_id
"""


_UNSEALED = """
    select count(*) from log_streams l join attempts a on a.task_id = l.task_id and a.number = l.attempt
    where not l.sealed and not l.corrupt and a.outcome not in (9, 10, 11)
"""
SEAL_SECONDS = 90.0
"""What was complete while nobody looked is sealed by a loop that comes round once a minute."""


class LeaseWatcher:
    """Writes down every lease again and again, for as long as it runs; while the database is away it waits."""

    def __init__(self, postgres: Postgres, record: Recorder) -> None:
        self._postgres = postgres
        self._record = record

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            with suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                async with self._postgres.connected(timeout=2, command_timeout=2) as connection:
                    await self._look(connection)
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self, connection: asyncpg.Connection) -> None:
        while True:
            rows = await connection.fetch(_LEASES)
            self._record.write("leases", leases=[list(row.values()) for row in rows])
            await asyncio.sleep(LOOK_SECONDS)


class Pieces:
    """Output as a reader got it: ranges without a hole, each with its digest."""

    def __init__(self) -> None:
        self._done: dict[tuple[int, int], list[list[Any]]] = {}
        self._gaps: dict[tuple[int, int], list[tuple[int, int]]] = {}

    def take(self, chunk: LogChunk) -> None:
        """One more chunk."""
        place = (chunk.attempt, STREAMS[chunk.stream])
        self._gaps.setdefault(place, []).extend((gap.start_offset, gap.end_offset) for gap in chunk.gaps)
        pieces = self._done.setdefault(place, [])
        if not chunk.data:
            return
        if not pieces or pieces[-1][0] + pieces[-1][1] != chunk.offset:
            pieces.append([chunk.offset, 0, hashlib.sha256()])
        pieces[-1][1] += len(chunk.data)
        pieces[-1][2].update(chunk.data)

    def streams(self) -> Iterable[tuple[int, int, list[list[Any]], list[tuple[int, int]]]]:
        """Attempt, stream, pieces and gaps of each."""
        for (attempt, stream), pieces in self._done.items():
            told = [[offset, length, digest.hexdigest()] for offset, length, digest in pieces]
            yield attempt, stream, told, self._gaps[attempt, stream]


class Collector:
    """Writes down all that Styx has to say in the end."""

    def __init__(self, postgres: Postgres, client: styx.AsyncClient, record: Recorder) -> None:
        self._postgres = postgres
        self._client = client
        self._record = record
        # Microseconds are lost between the two readings; the checker allows for more.
        self._wall_ahead_ns = time.time_ns() - now()

    async def collect(self) -> None:
        """Reads everything once, and tasks a second time when the rest was read."""
        await self._tasks()
        async with self._postgres.connected() as connection:
            await _until_sealed(connection)
            for row in await connection.fetch(_ATTEMPTS):
                self._write("attempt", dict(row) | {"outcome": OutcomeKind(row["outcome"]).name})
            for row in await connection.fetch(_EVENTS):
                self._write("event", dict(row) | {"state": TaskState(row["state"]).name})
            streams = [dict(row) for row in await connection.fetch(_STREAMS)]
        await self._logs(streams)
        await self._tasks()

    async def _tasks(self) -> None:
        async for task in self._client.list_tasks():
            self._record.write(
                "task", key=task.name, id=task.id, state=str(task.state), reason=task.reason, exit_code=task.exit_code
            )

    def _write(self, what: str, facts: Event) -> None:
        for name in ("at", "ended_at"):
            if facts.get(name) is not None:
                facts[name] -= self._wall_ahead_ns
        self._record.write(what, **facts)

    async def _logs(self, streams: list[Event]) -> None:
        waiting = iter(streams)
        async with asyncio.TaskGroup() as group:
            for _ in range(READERS):
                group.create_task(self._read_each(waiting))

    async def _read_each(self, waiting: Iterable[Event]) -> None:
        for stream in waiting:
            kept = {name: stream[name] for name in ("key", "fence", "stream", "sealed", "corrupt")}
            gaps = [(gap["start"], gap["end"]) for gap in _json(stream["gaps"])]
            pieces = [item async for item in self._pieces(stream)]
            self._record.write("log", **kept, gaps=gaps, pieces=pieces)

    async def _pieces(self, stream: Event) -> AsyncIterator[list[Any]]:
        got = Pieces()
        name = "stdout" if stream["stream"] == 1 else "stderr"
        async for chunk in self._client.logs(f"t{stream['id']}", attempt=stream["attempt"], stream=name):
            got.take(chunk)
        for _, _, pieces, _ in got.streams():
            for piece in pieces:
                yield piece


async def _until_sealed(connection: asyncpg.Connection) -> None:
    """Output may come after the end of its task. What never comes is left to the checker."""

    async def sealed() -> bool:
        return not await connection.fetchval(_UNSEALED)

    with suppress(AssertionError):
        await soon_true(sealed, "every log is sealed", seconds=SEAL_SECONDS)


def _json(text: Any) -> Any:
    return json.loads(text) if isinstance(text, str) else text
