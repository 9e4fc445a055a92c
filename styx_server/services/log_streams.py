"""What this server knows of streams of output: how far each is stored, its newest bytes, and who waits for more.

A cache with a bound; the database is the truth. `log_intake.py` writes, `log_reading.py` reads.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Final, NamedTuple

from styx_server.core.session import LogGap, LogStream
from styx_server.core.task import Fence, TaskId
from styx_server.services.log_codec import Codec
from styx_server.store.database import Database, Row

LEAST_TAIL_BYTES: Final = 1 << 20
"""What each followed stream may keep in memory, so that followers at its end need no query."""
SHARED_TAIL_BYTES: Final = 32 << 20
"""Where few are followed each may keep more: its followers take turns with commits of several MiB."""
_CHUNK_OVERHEAD: Final = 512

MAX_CACHED_STREAMS: Final = 20_000


class StreamKey(NamedTuple):
    """Names a stream of output."""

    task_id: TaskId
    attempt: int
    stream: LogStream


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Contiguous bytes of a stream, as they came from the agent.

    Attributes:
        start: position of the first byte.
        length: raw length in bytes.
        times: packed marks, see `log_codec.pack_times`.
        gap: the range just before `start` that was dropped by the agent.
    """

    start: int
    length: int
    codec: Codec
    data: bytes
    times: bytes = b""
    gap: LogGap | None = None

    @property
    def end(self) -> int:
        """Position of the first byte behind it."""
        return self.start + self.length


class Tail:
    """Newest chunks of one stream, without holes."""

    def __init__(self) -> None:
        self.chunks: deque[Chunk] = deque()
        self.size = 0

    def since(self, position: int) -> list[Chunk] | None:
        """What is here from a position on; None when that is too far back."""
        if not self.chunks or self.chunks[0].start > position:
            return None
        return list(takewhile(lambda chunk: chunk.end > position, reversed(self.chunks)))[::-1]


class Tails:
    """What all tails have together; one that grows may have half of what that leaves."""

    def __init__(self) -> None:
        self.size = 0

    def extend(self, tail: Tail, chunks: Iterable[Chunk]) -> None:
        """Keeps what goes on where a tail ends."""
        for chunk in chunks:
            tail.chunks.append(chunk)
            self._resize(tail, chunk.length + _CHUNK_OVERHEAD)
        while len(tail.chunks) > 1 and tail.size > max(LEAST_TAIL_BYTES, (SHARED_TAIL_BYTES - self.size) // 2):
            self._resize(tail, -tail.chunks.popleft().length - _CHUNK_OVERHEAD)

    def drop(self, tail: Tail) -> None:
        """Keeps nothing of it."""
        tail.chunks.clear()
        self._resize(tail, -tail.size)

    def _resize(self, tail: Tail, size: int) -> None:
        tail.size += size
        self.size += size


@dataclass(slots=True, kw_only=True)
class StreamState:
    """How far one stream is stored.

    Attributes:
        stored: everything below it is in the database.
        total: what the command wrote, once it is known.
        hasher: digest of the first `hashed` stored bytes outside of gaps; None when this process did not see them all.
        tail: what followers at the end are served from, while there are any.
        settling: bytes of it are being committed by this process.
    """

    key: StreamKey
    fence: Fence
    stored: int = 0
    total: int | None = None
    sha256: bytes = b""
    sealed: bool = False
    corrupt: bool = False
    gaps: list[LogGap] = field(default_factory=list)
    hasher: hashlib._Hash | None = None
    tail: Tail = field(default_factory=Tail)
    followers: int = 0
    settling: bool = False

    @property
    def complete(self) -> bool:
        """Everything that was written is stored, or known to be missing."""
        return self.total is not None and self.stored >= self.total

    def recent(self, position: int) -> list[Chunk] | None:
        """Chunks in memory from `position` on; None when that is too far back."""
        return [] if position >= self.stored else self.tail.since(position)


class AttemptOutput:
    """Wakes those who wait for more output of one task.

    Attributes:
        tails: what is kept in memory for them.
    """

    def __init__(self) -> None:
        self.tails: dict[StreamKey, Tail] = {}
        self._waiters: set[asyncio.Event] = set()

    def notify(self) -> None:
        """Something changed."""
        for waiter in self._waiters:
            waiter.set()

    def subscribe(self) -> asyncio.Event:
        """An event that is set at every change, until `unsubscribe`."""
        event = asyncio.Event()
        self._waiters.add(event)
        return event

    def unsubscribe(self, event: asyncio.Event) -> bool:
        """Ends a subscription; returns whether it was the last."""
        self._waiters.discard(event)
        return not self._waiters


class LogStreams:
    """The streams that this server has touched lately.

    Args:
        on_notify: told of each task of which output was stored or completed here.
    """

    def __init__(self, database: Database, on_notify: Callable[[TaskId], None] = lambda _task_id: None) -> None:
        self._database = database
        self._on_notify = on_notify
        self._states: OrderedDict[StreamKey, StreamState] = OrderedDict()
        self._outputs: dict[TaskId, AttemptOutput] = {}
        self._tails = Tails()

    @property
    def kept_bytes(self) -> int:
        """How much output is in memory for followers."""
        return self._tails.size

    async def get(self, key: StreamKey, fence: Fence, *, look: bool = True) -> StreamState:
        """The state of a stream, read from the database when it is not in memory; a new one starts empty.

        Args:
            key: which.
            fence: of its attempt.
            look: whether to read it; a caller who does not must find out whether the stream is really new.
        """
        state = self._states.get(key)
        if state is None and look:
            await self.load(key.task_id)
            state = self._states.get(key)
        if state is None:
            state = StreamState(key=key, fence=fence, hasher=hashlib.sha256())
            self._put(state)
        self._states.move_to_end(key)
        return state

    async def load(self, task_id: TaskId, attempt: int | None = None) -> list[StreamState]:
        """The states of all streams of a task that are stored; what is in memory already is kept."""
        rows = await self._database.fetch("get_streams", task_id=task_id, attempt=attempt)
        states = []
        for row in rows:
            fresh = state_from_row(row)
            known = self._states.get(fresh.key)
            if known is None:
                known = fresh
                self._put(known)
            elif known.settling:
                # Ahead in the database for this moment only; who writes here brings memory up to it.
                pass
            elif fresh.stored > known.stored or (fresh.total is not None and known.total is None):
                # Another server took over, or this one lost an answer: the database knows better.
                known.hasher = known.hasher if fresh.stored == known.stored else None
                known.stored, known.total, known.sha256 = fresh.stored, fresh.total, fresh.sha256
                known.gaps = fresh.gaps
                # What is in memory would have a hole now.
                self._tails.drop(known.tail)
            known.sealed, known.corrupt = fresh.sealed, fresh.corrupt
            states.append(known)
        return states

    def peek(self, key: StreamKey) -> StreamState | None:
        """The state of a stream if it is in memory."""
        return self._states.get(key)

    def forget(self, key: StreamKey) -> None:
        """Drops what is in memory, so that it is read again."""
        state = self._states.pop(key, None)
        if state is not None:
            self._tails.drop(state.tail)

    def remember(self, state: StreamState, chunks: Iterable[Chunk]) -> None:
        """Keeps chunks that were stored for as long as somebody waits here for output of the task."""
        output = self._outputs.get(state.key.task_id)
        if output is not None and self._states.get(state.key) is state:
            output.tails[state.key] = state.tail
            self._tails.extend(state.tail, chunks)

    def output(self, task_id: TaskId) -> AttemptOutput:
        """The wake-up calls of a task."""
        return self._outputs.setdefault(task_id, AttemptOutput())

    def check(self, key: StreamKey, stored: int) -> None:
        """Drops what is in memory of a stream when the database has more: another server stored it meanwhile."""
        state = self._states.get(key)
        if state is not None and not state.settling and state.stored < stored:
            self.forget(key)

    def notify(self, task_id: TaskId) -> None:
        """Something was stored here: wakes the followers of a task, wherever they are."""
        self.wake(task_id)
        self._on_notify(task_id)

    def wake(self, task_id: TaskId | None) -> None:
        """Wakes the followers of a task on this server; None: all followers."""
        outputs = self._outputs.values() if task_id is None else filter(None, [self._outputs.get(task_id)])
        for output in list(outputs):
            output.notify()

    def release_output(self, task_id: TaskId, event: asyncio.Event) -> None:
        """Ends a follower's subscription."""
        output = self._outputs.get(task_id)
        if output is not None and output.unsubscribe(event):
            del self._outputs[task_id]
            for tail in output.tails.values():
                # For the next one to come it would have a hole.
                self._tails.drop(tail)

    def _put(self, state: StreamState) -> None:
        self._states[state.key] = state
        while len(self._states) > MAX_CACHED_STREAMS:
            _, oldest = self._states.popitem(last=False)
            if oldest.followers:
                self._states[oldest.key] = oldest
                break
            self._tails.drop(oldest.tail)


def state_from_row(row: Row) -> StreamState:
    """A row of `get_streams`."""
    return StreamState(
        key=StreamKey(TaskId(row["task_id"]), row["attempt"], LogStream(row["stream"])),
        fence=Fence(row["fence"]),
        stored=row["stored_bytes"],
        total=row["total_bytes"],
        sha256=row["sha256"] or b"",
        sealed=row["sealed"],
        corrupt=row["corrupt"],
        gaps=[LogGap(start=gap["start"], end=gap["end"], reason=gap["reason"]) for gap in row["gaps"] or ()],
        hasher=hashlib.sha256() if row["stored_bytes"] == 0 else None,
    )
