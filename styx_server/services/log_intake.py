"""Takes in output: appends what is contiguous, says where each stream stands, and when it is complete.

An ack means committed. A chunk that does not start where its stream ends is not stored; the agent is told where to
start. Next: `log_sealing.py`, for what is complete.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeVar

import structlog

from styx import failpoints
from styx_server.clock import Clock
from styx_server.core.errors import Unavailable
from styx_server.core.session import LogEnd, LogStream
from styx_server.core.task import Fence, TaskId
from styx_server.services.budget import Budget
from styx_server.services.group_commit import GroupCommit
from styx_server.services.log_codec import Codec, unpack, unpack_times
from styx_server.services.log_streams import (
    MAX_CACHED_STREAMS,
    Chunk,
    LogStreams,
    StreamKey,
    StreamState,
)
from styx_server.store.database import Database, Executor

_log = structlog.get_logger()

_COLUMNS = ["task_id", "attempt", "stream", "start_offset", "length", "codec", "times", "data", "time"]
_FEW_BYTES = 128 << 10
"""Up to here one statement is cheaper than a transaction with COPY, which takes four times less for megabytes."""
_QUICK_BYTES = 64 << 10
"""Unpacked and hashed in less time than it takes to hand the work to a thread and to hear of it again."""

MAX_WAITING_BYTES = 64 << 20
"""Output of all agents that waits to be stored; past it their streams are not read, and it stays on their disks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Append:
    """Chunks of one stream in order, from one agent."""

    key: StreamKey
    fence: Fence
    chunks: tuple[Chunk, ...]

    @property
    def start(self) -> int:
        """Where the first of it begins, in bytes or in a gap."""
        first = self.chunks[0]
        return first.start if first.gap is None else first.gap.start

    @property
    def size(self) -> int:
        """Bytes of memory that it takes, about."""
        return sum(len(chunk.data) + len(chunk.times) + 512 for chunk in self.chunks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """Where a stream stands after an append; `rewind` when the chunks did not fit."""

    end: int
    rewind: bool


class LogIntake:
    """Stores output of all agents, many chunks in one commit.

    Args:
        on_stored: told how many bytes were stored.
        on_complete: told of each stream of which all is stored.

    Attributes:
        budget: room in memory, to be taken before output is taken in and given back when it is stored.
    """

    def __init__(
        self,
        database: Database,
        streams: LogStreams,
        clock: Clock,
        on_stored: Callable[[int], None],
        on_complete: Callable[[StreamState], None],
    ) -> None:
        self._database = database
        self._streams = streams
        self._clock = clock
        self._on_stored = on_stored
        self._on_complete = on_complete
        self.budget = Budget(MAX_WAITING_BYTES, "output")
        self._awaited: dict[StreamKey, tuple[set[StreamKey], Callable[[], None]]] = {}
        self.commits: GroupCommit[Append, Stored] = GroupCommit(
            "logs",
            self._flush,
            clock=clock,
            weigh=lambda append: sum(chunk.length for chunk in append.chunks) + 1024,
            max_weight=4 << 20,
            # Longer than that of reports: on a disk that is nearly full, output comes after what happened.
            patience=lambda _: 3.0,
        )

    async def append(self, append: Append) -> Stored:
        """Stores chunks; returns where the stream stands once that is committed."""
        return await self.commits.add(append)

    async def append_all(self, appends: Sequence[Append]) -> list[Stored]:
        """As `append` for several streams, in order."""
        return await self.commits.add_many(appends)

    async def finish(
        self, attempt: tuple[TaskId, int, Fence], ends: Iterable[LogEnd], then: Callable[[], None]
    ) -> bool:
        """Notes how much an attempt wrote, which is stored already; returns whether all of it has arrived.

        Args:
            attempt: its task, number and fence.
            ends: what it wrote to each stream.
            then: called once, when all of it has arrived.
        """
        task_id, number, fence = attempt
        keys = set()
        for end in ends:
            state = await self._streams.get(StreamKey(task_id, number, end.stream), fence)
            keys.add(state.key)
            # An agent that lost what is stored here cannot know the digest of it.
            short = end.total_bytes < state.stored
            state.total, state.sha256 = max(end.total_bytes, state.stored), b"" if short else end.sha256
            if end.gaps:
                state.gaps = list(end.gaps)
            if state.complete:
                self._on_complete(state)
        self._streams.notify(task_id)
        return not self._await(keys, then)

    async def _flush(self, appends: list[Append]) -> list[Stored]:
        raw_bytes = sum(chunk.length for append in appends for chunk in append.chunks)
        unpacked = await _aside(raw_bytes, lambda: _unpack(appends))
        try:
            # Of a stream that begins and is not known here there is nothing in the database but by a rare chance.
            return await self._append(appends, unpacked, look=False)
        except _Lost as lost:
            # The database stands elsewhere than this process thought: look there; agents start again from that.
            for key in lost.keys:
                self._streams.forget(key)
            _log.info("log_streams_reread", count=len(lost.keys))
            return await self._append(appends, unpacked, look=True)

    async def _append(self, appends: list[Append], unpacked: list[list[_Raw]], *, look: bool) -> list[Stored]:
        states = [
            await self._streams.get(append.key, append.fence, look=look or append.start > 0) for append in appends
        ]
        batch = _Batch()
        results: list[Stored] = []
        for state, raws in zip(states, unpacked, strict=True):
            rewind = batch.take(state, raws)
            results.append(Stored(end=batch.ends[state.key], rewind=rewind))
        if batch.moved:
            batch.mark(settling=True)
            try:
                await failpoints.reach("server.log.received", Unavailable)
                await self._store(batch)
                await failpoints.reach("server.log.committed", Unavailable)
                await self._settle(batch)
            finally:
                batch.mark(settling=False)
        return results

    async def _store(self, batch: _Batch) -> None:
        now = self._clock.now()
        rows = [
            (*key, chunk.start, chunk.length, chunk.codec, chunk.times, chunk.data, _time_of(chunk, now))
            for key in batch.moved
            for chunk, _ in batch.raws[key]
            if chunk.length
        ]
        if sum(len(row[7]) for row in rows) < _FEW_BYTES:
            await _advance(self._database, batch, rows)
            return
        async with self._database.transaction() as transaction:
            await _advance(transaction, batch, [])
            await transaction.copy("log_chunks", _COLUMNS, rows)

    async def _settle(self, batch: _Batch) -> None:
        """What follows a commit: digests, followers, seals."""
        hashed = sum(len(raw) for raws in batch.raws.values() for _, raw in raws)
        work = [(state.hasher, [raw for _, raw in batch.raws[key]]) for key, state in batch.moved.items()]
        await _aside(hashed, lambda: _digest(work))
        self._on_stored(hashed)
        for key, state in batch.moved.items():
            state.stored = batch.ends[key]
            for chunk, _ in batch.raws[key]:
                if chunk.gap is not None and chunk.gap not in state.gaps:
                    state.gaps.append(chunk.gap)
            self._streams.remember(
                state, (replace(chunk, codec=Codec.IDENTITY, data=raw) for chunk, raw in batch.raws[key])
            )
            self._streams.notify(key.task_id)
            if state.complete:
                self._arrived(key)
                self._on_complete(state)

    def _await(self, keys: set[StreamKey], then: Callable[[], None]) -> set[StreamKey]:
        """Notes what has not arrived yet, and returns it."""
        missing = {key for key in keys if (state := self._streams.peek(key)) is None or not state.complete}
        self._awaited.update(dict.fromkeys(missing, (missing, then)))
        while len(self._awaited) > MAX_CACHED_STREAMS:
            # Of agents that went to another server meanwhile.
            del self._awaited[next(iter(self._awaited))]
        if not missing:
            then()
        return missing

    def _arrived(self, key: StreamKey) -> None:
        missing, then = self._awaited.pop(key, (set[StreamKey](), None))
        missing.discard(key)
        if then is not None and not missing:
            then()


_Raw = tuple[Chunk, bytes]
_ChunkRow = tuple[TaskId, int, LogStream, int, int, Codec, bytes, bytes, datetime]
_Result = TypeVar("_Result")


class _Lost(Exception):
    """Streams that stand elsewhere in the database than in memory."""

    def __init__(self, keys: set[StreamKey]) -> None:
        super().__init__(keys)
        self.keys = keys


class _Batch:
    """What one commit appends to which streams."""

    def __init__(self) -> None:
        self.ends: dict[StreamKey, int] = {}
        self.moved: dict[StreamKey, StreamState] = {}
        self.raws: dict[StreamKey, list[_Raw]] = {}

    def mark(self, *, settling: bool) -> None:
        """Says of every stream that its end is being moved here, or no longer is."""
        for state in self.moved.values():
            state.settling = settling

    def take(self, state: StreamState, raws: list[_Raw]) -> bool:
        """Takes what is contiguous; returns whether the agent has to start again from the end of the stream."""
        end = self.ends.setdefault(state.key, state.stored)
        for chunk, raw in raws:
            if chunk.end <= end:
                continue
            gap = chunk.gap if chunk.gap is not None and chunk.gap.end > end else None
            begin = chunk.start if gap is None else gap.start
            if begin != end or (gap is not None and gap.end != chunk.start) or chunk.length != len(raw):
                return True
            end = self.ends[state.key] = chunk.end
            self.moved[state.key] = state
            self.raws.setdefault(state.key, []).append((replace(chunk, gap=gap), raw))
        return False


def _unpack(appends: list[Append]) -> list[list[_Raw]]:
    """Raw bytes of all chunks; one that cannot be unpacked gets none, so that it does not fit."""
    unpacked: list[list[_Raw]] = []
    for append in appends:
        raws: list[_Raw] = []
        for chunk in append.chunks:
            try:
                raws.append((chunk, unpack(chunk.codec, chunk.data, chunk.length) if chunk.length else b""))
            except ValueError as error:
                _log.error("log_chunk_bad", task=append.key.task_id, start=chunk.start, error=str(error))
                raws.append((chunk, b""))
        unpacked.append(raws)
    return unpacked


def _digest(work: list[tuple[hashlib._Hash | None, list[bytes]]]) -> None:
    for hasher, raws in work:
        if hasher is not None:
            for raw in raws:
                hasher.update(raw)


async def _advance(executor: Executor, batch: _Batch, rows: Sequence[_ChunkRow]) -> None:
    """Moves the ends of streams, and stores these pieces of them in the same statement.

    Raises:
        _Lost: some stand elsewhere. The others may be stored now, unknown to memory: all are to be read again.
    """
    moved = batch.moved
    columns = list(zip(*rows, strict=True)) or [()] * len(_COLUMNS)
    answer = await executor.fetch(
        "advance_streams",
        task_ids=[key.task_id for key in moved],
        attempts=[key.attempt for key in moved],
        streams=[key.stream for key in moved],
        fences=[state.fence for state in moved.values()],
        starts=[state.stored for state in moved.values()],
        ends=[batch.ends[key] for key in moved],
        gaps=[_gaps(batch.raws[key]) for key in moved],
        **{f"chunk_{name}": column for name, column in zip(_COLUMNS, columns, strict=True)},
    )
    if len(answer) != len(moved):
        raise _Lost(set(moved))


async def _aside(raw_bytes: int, work: Callable[[], _Result]) -> _Result:
    """Does what takes a while for many bytes where it holds up nobody; here, if they are few."""
    return work() if raw_bytes < _QUICK_BYTES else await asyncio.to_thread(work)


def _gaps(raws: list[_Raw]) -> str | None:
    gaps = [chunk.gap for chunk, _ in raws if chunk.gap is not None]
    if not gaps:
        return None
    return json.dumps([{"start": gap.start, "end": gap.end, "reason": gap.reason} for gap in gaps])


def _time_of(chunk: Chunk, now: datetime) -> datetime:
    return min(now, unpack_times(chunk.times)[0][1]) if chunk.times else now
