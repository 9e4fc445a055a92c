"""Output on its way to the server: sends it within a window, hears what is stored, goes back when it must.

One call of PushLogs at a time, with one reader and one writer. Streams take turns, so that a noisy task starves nobody.
When the call breaks, everything not acked is sent again. Next: `ledger.py` for the positions, `chunks.py` for what
is sent.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import Any

import grpc
import structlog

from styx import failpoints
from styx.agent.v1 import agent_service_pb2 as wire
from styx_agent import clock, codec, ids
from styx_agent.calls import SessionOver, first_cause, read_or_raise, write_or_raise
from styx_agent.chunks import CHUNK_BYTES, ChunkMaker
from styx_agent.ledger import Ledger, Stream
from styx_agent.orders import ServerOrders

log = structlog.get_logger(__name__)

_REQUEST_BYTES = 1 << 20
_AGENT_WINDOW = 8 << 20
_LAZY_MICROS = 200_000
_SOON_MICROS = 3_000
_SAME_REWIND_MICROS = 1_000_000
_FIRST_WAIT_SECONDS = 0.2
_LONGEST_WAIT_SECONDS = 10.0


class LogPusher:
    """Sends what the ledger's streams have, for one session.

    Args:
        open_call: starts a call of PushLogs.
        epoch: of the session.
    """

    def __init__(self, ledger: Ledger, chunks: ChunkMaker, open_call: Callable[[], Any], *, epoch: int) -> None:
        self._ledger = ledger
        self._chunks = chunks
        self._orders = ServerOrders(ledger)
        self._open_call = open_call
        self._epoch = epoch
        self._waiting: dict[tuple[int, str], Stream] = {}
        self._unacked = 0
        self._interest: frozenset[int] = frozenset()
        self._wake = asyncio.Event()
        self._next_look = math.inf
        self._rewound: dict[tuple[int, str], tuple[int, int]] = {}
        self._doubts: dict[tuple[int, str], tuple[Stream, int]] = {}

    def on_growth(self, stream: Stream) -> None:
        """A stream has news: more output, or the end of it."""
        if stream.unsent > 0:
            if stream.waiting_since is None:
                stream.waiting_since = clock.boottime_micros()
            self._waiting.setdefault((stream.fence, stream.name), stream)
        if self._due_at(stream) < self._next_look:
            # What may wait until then does not wake the writer, who looks at all that waits.
            self._wake.set()

    def on_interest(self, fences: frozenset[int]) -> None:
        """The complete list of attempts whose output somebody is looking at."""
        self._interest = fences
        self._wake.set()

    async def run(self) -> None:
        """Sends until cancelled.

        Raises:
            SessionOver: the server says that the session is not the latest one.
        """
        self._begin()
        wait = _FIRST_WAIT_SECONDS
        while True:
            await self._wake.wait()
            opened = clock.boottime_micros()
            try:
                await self._push()
            except SessionOver as error:
                if error.code is grpc.StatusCode.ABORTED:
                    raise
                log.warning("log_push_broken", reason=str(error))
            if clock.boottime_micros() - opened > _LONGEST_WAIT_SECONDS * 1e6:
                wait = _FIRST_WAIT_SECONDS
            await clock.sleep(ids.within(wait))
            wait = min(wait * 2, _LONGEST_WAIT_SECONDS)
            self._begin()

    def _begin(self) -> None:
        """Everything that is not stored is unsent."""
        self._unacked = 0
        self._next_look = math.inf
        self._rewound.clear()
        self._doubts.clear()
        self._waiting.clear()
        for stream in self._ledger.streams():
            stream.sent = stream.durable
            stream.waiting_since = None
            if stream.unsent:
                self.on_growth(stream)

    async def _push(self) -> None:
        call = self._open_call()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read_acks(call))
                # Not a second task: a group that only waits for its tasks leaves its own task cancelled when one
                # fails (until Python 3.13), and a broken stream would pass for the wish to end.
                await self._write_chunks(call)
        except BaseExceptionGroup as causes:
            raise first_cause(causes) from None
        finally:
            call.cancel()

    async def _write_chunks(self, call: Any) -> None:
        while True:
            now = clock.boottime_micros()
            if self._doubts:
                self._settle_doubts(now)
            chunks = self._gather(now)
            if chunks:
                await write_or_raise(call, wire.PushLogsRequest(epoch=self._epoch, chunks=chunks))
                await failpoints.reach("link.log.sent")
                continue
            self._wake.clear()
            self._next_look = self._time_of_next()
            seconds = max(0.0, self._next_look - clock.boottime_micros()) / 1e6
            await clock.wait_for_event(self._wake, seconds if seconds < math.inf else None)

    async def _read_acks(self, call: Any) -> None:
        while True:
            response = await read_or_raise(call)
            for ack in response.acks:
                self._on_ack(ack)
            self._unacked = sum(stream.sent - stream.durable for stream in self._ledger.streams())
            self._wake.set()

    def _on_ack(self, ack: wire.LogAck) -> None:
        if ack.unknown:
            log.info("attempt_unknown_to_server", fence=ack.fence)
            self._waiting = {key: stream for key, stream in self._waiting.items() if key[0] != ack.fence}
            self._orders.condemn(ack.fence)
            return
        name = codec.STREAM_NAMES.get(ack.stream)
        held = self._ledger.get(ack.fence)
        stream = held.streams.get(name) if held is not None and name is not None else None
        if stream is None or name is None:
            return
        failpoints.hit("link.log.acked")
        if ack.rewind:
            self._rewind(stream, ack.durable_offset)
        self._orders.stored(ack.fence, name, ack.durable_offset)

    def _rewind(self, stream: Stream, durable: int) -> None:
        """Goes back, once for each place: chunks that were under way are refused too and say the same.

        What is refused for another reason says the same as well, so a place that stays is looked at again.
        """
        key, now = (stream.fence, stream.name), clock.boottime_micros()
        place, when = self._rewound.get(key, (-1, 0))
        if place == durable and now - when < _SAME_REWIND_MICROS:
            self._doubts[key] = (stream, when + _SAME_REWIND_MICROS)
            return
        self._rewound[key] = (durable, now)
        log.warning("log_rewound", fence=stream.fence, stream=stream.name, offset=durable, sent=stream.sent)
        stream.durable = min(stream.durable, durable)
        stream.sent = durable
        if stream.unsent:
            self.on_growth(stream)

    def _settle_doubts(self, now: int) -> None:
        for key, (stream, at) in list(self._doubts.items()):
            if stream.durable != self._rewound[key][0]:
                del self._doubts[key]
            elif now >= at:
                del self._doubts[key]
                self._rewind(stream, stream.durable)

    # What goes next.

    def _gather(self, now: int) -> list[wire.LogChunk]:
        """Up to a request full of chunks, one of each stream in turn."""
        chunks: list[wire.LogChunk] = []
        room = min(_REQUEST_BYTES, _AGENT_WINDOW - self._unacked)
        turn = deque(self._waiting.items())
        while turn and room > 0:
            key, stream = turn.popleft()
            held = self._ledger.get(stream.fence)
            if stream.unsent <= 0 or held is None or held.condemned:
                # An ack went past it, or nobody wants it: its files are gone, or about to go.
                del self._waiting[key]
                continue
            if self._due_at(stream) > now or self._window(stream) <= 0:
                continue
            chunk = self._chunks.next(stream, min(room, CHUNK_BYTES))
            chunks.append(chunk)
            room -= chunk.length
            self._unacked += chunk.length
            del self._waiting[key]
            if stream.unsent:
                self._waiting[key] = stream  # at the end: the others first
                turn.append((key, stream))
            else:
                stream.waiting_since = None
        return chunks

    def _window(self, stream: Stream) -> int:
        """How much more of a stream may be under way: twice what is left for the others.

        So one that is alone gets two thirds, several share, and there is always room for one that begins.
        """
        return 2 * (_AGENT_WINDOW - self._unacked) - (stream.sent - stream.durable)

    def _due_at(self, stream: Stream) -> int:
        if stream.unsent >= CHUNK_BYTES:
            return 0
        held = self._ledger.get(stream.fence)
        begins = not stream.sent  # nobody can be known to look at what has not begun
        looked_at = stream.fence in self._interest
        answered = looked_at and stream.sent == stream.durable
        if held is None or held.ended or held.condemned or begins or answered:
            return 0
        since = stream.waiting_since or 0
        # At whole fifths of a second, so that all that nobody looks at goes together.
        return since + _SOON_MICROS if looked_at else (since // _LAZY_MICROS + 1) * _LAZY_MICROS

    def _time_of_next(self) -> float:
        times: list[float] = [at for _, at in self._doubts.values()]
        if self._unacked < _AGENT_WINDOW:
            times += [self._due_at(stream) for stream in self._waiting.values() if self._window(stream) > 0]
        return min(times, default=math.inf)
