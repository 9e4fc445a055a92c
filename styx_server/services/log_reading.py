"""Reads output: what is stored, and what comes, for anybody who follows. A slow reader slows nobody.

Readers pull by position, so they survive a change of server; at the end of a stream they are served from memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

from styx_server.core.errors import NotFound
from styx_server.core.session import LogGap, LogStream
from styx_server.core.states import AttemptState, TaskState
from styx_server.core.task import AgentId, Fence, TaskId
from styx_server.services.interest import Followed
from styx_server.services.log_codec import MAX_CHUNK_BYTES, Codec, unpack, unpack_times
from styx_server.services.log_streams import Chunk, LogStreams, StreamKey, StreamState
from styx_server.store.database import Database, Row

_READ_AHEAD: Final = 2
"""Chunks that each reader has in memory: readers may be many and slow, and each chunk is up to 256 KiB."""
_POLL_SECONDS: Final = 1.0
_DRAIN_SECONDS: Final = 30.0
"""How long after the end of an attempt a follower waits for output that an unreachable agent still holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRequest:
    """Which output to read. `attempt` 0: the latest, and with `follow` those after it."""

    task_id: TaskId
    attempt: int = 0
    streams: tuple[LogStream, ...] = (LogStream.STDOUT, LogStream.STDERR)
    follow: bool = False
    offsets: tuple[int, int] = (0, 0)
    tail_lines: int = 0
    timestamps: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Some output. `times` are (position in the stream, when)."""

    attempt: int
    stream: LogStream
    start: int
    data: bytes
    times: list[tuple[int, datetime]]
    gaps: list[LogGap]
    last: bool = False
    incomplete: bool = False


@dataclass(slots=True, kw_only=True)
class _Cursor:
    """A reader's place in one stream.

    Attributes:
        told: gaps that end up to here have been told.
        expired: what was found to be dropped by retention.
    """

    key: StreamKey
    position: int
    told: int
    expired: list[LogGap] = field(default_factory=list)
    state: StreamState | None = None
    ready: list[Chunk] | None = None
    done: bool = False


class LogReading:
    """Reads output for users.

    Args:
        on_follow: told when somebody starts (1) and stops (-1) looking at an attempt, so that its agent hurries.
    """

    def __init__(self, database: Database, streams: LogStreams, on_follow: Callable[[Followed, int], None]) -> None:
        self._database = database
        self._streams = streams
        self._on_follow = on_follow

    async def read(self, request: LogRequest) -> AsyncGenerator[Piece, None]:
        """Output from where the request says, in order within each stream, roughly by time across both.

        Raises:
            NotFound: there is no such task or attempt.
        """
        event = self._streams.output(request.task_id).subscribe()
        try:
            async for number, task in self._numbers(request, event):
                async for piece in self._attempt(request, number, task, event):
                    yield piece
                # Of the attempts that follow, everything is wanted.
                request = replace(request, tail_lines=0)
        finally:
            self._streams.release_output(request.task_id, event)

    async def _numbers(self, request: LogRequest, event: asyncio.Event) -> AsyncGenerator[tuple[int, Row], None]:
        """Which attempts to read, each as soon as there is one, and the task as it is then."""
        task = await self._task(request.task_id)
        latest = task["attempt"]
        if request.attempt > latest:
            text = f"task t{request.task_id} has had {latest} attempts; there is no attempt {request.attempt}"
            raise NotFound(text, reason="ATTEMPT_NOT_FOUND")
        if request.attempt or not request.follow:
            for number in filter(None, [request.attempt or latest]):
                yield number, task
            return
        number = max(1, latest)
        while True:
            if task["attempt"] >= number:
                yield number, task
                number += 1
            elif TaskState(task["state"]).ended or task["reason"] == "held":
                return
            else:
                await _wait(event)
            task = await self._task(request.task_id)

    async def _attempt(
        self, request: LogRequest, number: int, task: Row, event: asyncio.Event
    ) -> AsyncGenerator[Piece, None]:
        cursors = await self._cursors(request, number)
        with self._followed(cursors, _live(task, number) if request.follow else None):
            quiet = 0.0
            while True:
                event.clear()
                drained = False
                self._attach([cursor for cursor in cursors if cursor.state is None])
                async for piece in self._drain(cursors, request):
                    drained = True
                    yield piece
                if request.follow and drained and not any(c.state and c.state.total is not None for c in cursors):
                    # In the midst of a live stream memory says enough; the database is asked when it falls silent.
                    quiet = 0.0
                    await _wait(event)
                    continue
                over = await self._over(request.task_id, number)
                # States are read after the end of the attempt is known: its totals are then known too.
                await self._refresh(cursors, request, number)
                async for piece in self._drain(cursors, request):
                    quiet = 0.0
                    yield piece
                for cursor in cursors:
                    if not cursor.done and _finished(cursor, over, request.follow, quiet):
                        cursor.done = True
                        yield _last(cursor)
                if all(cursor.done for cursor in cursors):
                    return
                quiet += 0.0 if await _wait(event) else _POLL_SECONDS if over else 0.0

    async def _drain(self, cursors: list[_Cursor], request: LogRequest) -> AsyncGenerator[Piece, None]:
        while (cursor := await self._next(cursors)) is not None:
            assert cursor.ready
            yield _piece(cursor, cursor.ready.pop(0), request)

    async def _cursors(self, request: LogRequest, number: int) -> list[_Cursor]:
        cursors = []
        for stream in request.streams:
            key = StreamKey(request.task_id, number, stream)
            position = request.offsets[stream - 1] if request.attempt else 0
            if request.tail_lines:
                position = max(position, await self._tail_position(key, request.tail_lines))
            cursors.append(_Cursor(key=key, position=position, told=position))
        return cursors

    @contextmanager
    def _followed(self, cursors: list[_Cursor], live: Followed | None) -> Iterator[None]:
        if live:
            self._on_follow(live, 1)
        try:
            yield
        finally:
            for cursor in cursors:
                if cursor.state is not None:
                    cursor.state.followers -= 1
            if live:
                self._on_follow(live, -1)

    async def _refresh(self, cursors: list[_Cursor], request: LogRequest, number: int) -> None:
        missing = [cursor for cursor in cursors if cursor.state is None or not cursor.state.complete]
        if missing:
            await self._streams.load(request.task_id, number)
        self._attach(missing)

    def _attach(self, cursors: list[_Cursor]) -> None:
        """Gives cursors the states that are in memory."""
        for cursor in cursors:
            state = self._streams.peek(cursor.key)
            if state is not None and cursor.state is not state:
                if cursor.state is not None:
                    cursor.state.followers -= 1
                state.followers += 1
                cursor.state = state

    async def _next(self, cursors: list[_Cursor]) -> _Cursor | None:
        """The cursor with the oldest unread chunk."""
        best: _Cursor | None = None
        best_time: datetime | None = None
        for cursor in cursors:
            if not cursor.ready:
                cursor.ready = await self._chunks(cursor)
            if not cursor.ready:
                continue
            first = cursor.ready[0]
            when = unpack_times(first.times)[0][1] if first.times else datetime.min.replace(tzinfo=UTC)
            if best is None or best_time is None or when < best_time:
                best, best_time = cursor, when
        return best

    async def _chunks(self, cursor: _Cursor) -> list[Chunk]:
        state = cursor.state
        if state is None or cursor.position >= state.stored:
            return []
        recent = state.recent(cursor.position)
        if recent is not None:
            return recent[:_READ_AHEAD]
        # More may be stored while this is read: only what was there before can be known to be missing.
        end = state.stored
        rows = await self._database.fetch(
            "read_chunks", **cursor.key._asdict(), position=cursor.position, longest=MAX_CHUNK_BYTES, count=_READ_AHEAD
        )
        begin = cursor.position
        for row in rows:
            _note_expired(cursor, begin, row["start_offset"])
            begin = row["start_offset"] + row["length"]
        if not rows:
            # Only a gap, or chunks that retention took: pass over it.
            _note_expired(cursor, begin, end)
            cursor.position = end
            return []
        return await asyncio.to_thread(lambda: [_raw_chunk(row) for row in rows])

    async def _tail_position(self, key: StreamKey, lines: int) -> int:
        """Where the last `lines` lines of what is stored begin."""
        state = next((s for s in await self._streams.load(key.task_id, key.attempt) if s.key == key), None)
        if state is None:
            return 0
        position, wanted = state.stored, lines
        while position > 0 and wanted:
            rows = await self._database.fetch("read_chunks_back", **key._asdict(), position=position, count=1)
            if not rows:
                return position
            raw = unpack(Codec(rows[0]["codec"]), rows[0]["data"], rows[0]["length"])
            # A newline at the very end closes the last line; it does not begin another.
            closing = position == state.stored and raw.endswith(b"\n")
            found, wanted = _line_start(raw, len(raw) - closing, wanted)
            position = rows[0]["start_offset"] + found
        return position

    async def _task(self, task_id: TaskId) -> Row:
        row = await self._database.fetch_row("get_attempt_state", id=task_id)
        if row is None:
            raise NotFound(f"there is no task t{task_id}", task_id=f"t{task_id}")
        return row

    async def _over(self, task_id: TaskId, number: int) -> bool:
        task = await self._task(task_id)
        return bool(task["attempt"] > number or not AttemptState(task["attempt_state"]).live)


def _live(task: Row, number: int) -> Followed | None:
    """Who runs an attempt, if it is the task's latest and lives."""
    if task["attempt"] != number or not AttemptState(task["attempt_state"]).live:
        return None
    return Followed(AgentId(task["agent_id"]), TaskId(task["id"]), Fence(task["fence"]))


def _line_start(raw: bytes, end: int, wanted: int) -> tuple[int, int]:
    """Goes back `wanted` lines from `end`; returns where that is, 0 at most, and how many lines are still wanted."""
    while wanted:
        end = raw.rfind(b"\n", 0, end)
        if end < 0:
            return 0, wanted
        wanted -= 1
    return end + 1, 0


async def _wait(event: asyncio.Event) -> bool:
    """Waits for a change or a poll; returns whether there was a change."""
    try:
        async with asyncio.timeout(_POLL_SECONDS):
            await event.wait()
    except TimeoutError:
        return False
    event.clear()
    return True


def _finished(cursor: _Cursor, over: bool, follow: bool, quiet: float) -> bool:
    state = cursor.state
    at_end = state is None or cursor.position >= state.stored
    if not follow:
        return at_end
    if not over or not at_end:
        return False
    # No row: the attempt wrote nothing. A total: nothing more will come. Else output is still at the agent.
    return state is None or state.complete or quiet >= _DRAIN_SECONDS


def _piece(cursor: _Cursor, chunk: Chunk, request: LogRequest) -> Piece:
    skip = max(0, cursor.position - chunk.start)
    piece = Piece(
        attempt=cursor.key.attempt,
        stream=cursor.key.stream,
        start=chunk.start + skip,
        data=chunk.data[skip:] if skip else chunk.data,
        times=_times(chunk, skip) if request.timestamps else [],
        gaps=_gaps(cursor, chunk.end),
    )
    cursor.position = chunk.end
    return piece


def _gaps(cursor: _Cursor, end: int | None = None) -> list[LogGap]:
    """Gaps that begin before `end` and were not told yet; they are then."""
    known = sorted([*(cursor.state.gaps if cursor.state else []), *cursor.expired], key=lambda gap: gap.start)
    gaps = [gap for gap in known if gap.end > cursor.told and (end is None or gap.start < end)]
    cursor.told = max([cursor.told, *(gap.end for gap in gaps)])
    return gaps


def _note_expired(cursor: _Cursor, begin: int, end: int) -> None:
    """Notes what is missing between two places and is in no gap: retention took it."""
    for gap in sorted(cursor.state.gaps if cursor.state else [], key=lambda gap: gap.start):
        if begin < min(gap.start, end):
            cursor.expired.append(LogGap(start=begin, end=min(gap.start, end), reason="expired"))
        begin = max(begin, gap.end)
    if begin < end:
        cursor.expired.append(LogGap(start=begin, end=end, reason="expired"))


def _times(chunk: Chunk, skip: int) -> list[tuple[int, datetime]]:
    marks = [(chunk.start + position, when) for position, when in unpack_times(chunk.times)]
    begin = chunk.start + skip
    before = [mark for mark in marks if mark[0] <= begin]
    return [(begin, before[-1][1])] * bool(before) + [mark for mark in marks if mark[0] > begin]


def _last(cursor: _Cursor) -> Piece:
    state = cursor.state
    gaps = _gaps(cursor)
    if state and state.total is not None and state.stored < state.total:
        gaps.append(LogGap(start=state.stored, end=state.total, reason="agent_lost"))
    return Piece(
        attempt=cursor.key.attempt,
        stream=cursor.key.stream,
        start=cursor.position,
        data=b"",
        times=[],
        gaps=gaps,
        last=True,
        incomplete=state is not None and not state.complete,
    )


def _raw_chunk(row: Row) -> Chunk:
    return Chunk(
        start=row["start_offset"],
        length=row["length"],
        codec=Codec.IDENTITY,
        data=unpack(Codec(row["codec"]), row["data"], row["length"]),
        times=row["times"],
    )
