"""What this server knows of streams of output: how far each is stored, its newest bytes, and who waits for more.

A cache with a bound; the database is the truth. `log_intake.py` writes, `log_reading.py` reads.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from styx_server.core.session import LogGap, LogStream
from styx_server.core.task import Fence, TaskId
from styx_server.services.log_codec import Codec
from styx_server.store.database import Database, Row

TAIL_BYTES: Final = 1 << 20
"""Newest bytes of a followed stream that are kept in memory, so that followers at the end need no query."""

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


@dataclass(slots=True, kw_only=True)
class StreamState:
    """How far one stream is stored.

    Attributes:
        stored: everything below it is in the database.
        total: what the command wrote, once it is known.
        hasher: digest of the first `hashed` stored bytes outside of gaps; None when this process did not see them all.
        tail: newest chunks, without holes, while somebody follows.
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
    tail: deque[Chunk] = field(default_factory=deque)
    tail_size: int = 0
    followers: int = 0
    settling: bool = False

    @property
    def complete(self) -> bool:
        """Everything that was written is stored, or known to be missing."""
        return self.total is not None and self.stored >= self.total

    def remember(self, chunk: Chunk, *, watched: bool) -> None:
        """Keeps a stored chunk for followers at the end of the stream; `watched`: some wait for it to begin."""
        if not self.followers and not watched:
            self.tail.clear()
            self.tail_size = 0
            return
        self.tail.append(chunk)
        self.tail_size += chunk.length
        while self.tail_size > TAIL_BYTES and len(self.tail) > 1:
            self.tail_size -= self.tail.popleft().length

    def recent(self, position: int) -> list[Chunk] | None:
        """Chunks in memory from `position` on; None when that is too far back."""
        if position >= self.stored:
            return []
        if not self.tail or self.tail[0].start > position:
            return None
        return [chunk for chunk in self.tail if chunk.end > position]


class AttemptOutput:
    """Wakes those who wait for more output of one task."""

    def __init__(self) -> None:
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
                known.tail.clear()
                known.tail_size = 0
            known.sealed, known.corrupt = fresh.sealed, fresh.corrupt
            states.append(known)
        return states

    def peek(self, key: StreamKey) -> StreamState | None:
        """The state of a stream if it is in memory."""
        return self._states.get(key)

    def forget(self, key: StreamKey) -> None:
        """Drops what is in memory, so that it is read again."""
        self._states.pop(key, None)

    def is_watched(self, task_id: TaskId) -> bool:
        """Whether somebody waits here for output of a task."""
        return task_id in self._outputs

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

    def _put(self, state: StreamState) -> None:
        self._states[state.key] = state
        while len(self._states) > MAX_CACHED_STREAMS:
            _, oldest = self._states.popitem(last=False)
            if oldest.followers:
                self._states[oldest.key] = oldest
                break


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
