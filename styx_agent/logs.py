"""Output on its way to the server: reads the spool, packs, sends within a window, frees what is stored.

One call of PushLogs at a time, with one reader and one writer. Streams take turns, so that a noisy task starves nobody.
When the call breaks, everything not acked is sent again. Next: `ledger.py` for the positions, `supervisor/spool.py` for
where the bytes are.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import structlog
import zstandard

from styx.agent.v1 import agent_service_pb2 as wire
from styx_agent import clock, codec, ids
from styx_agent.calls import SessionOver, first_cause, read_or_raise, write_or_raise
from styx_agent.ledger import Ledger, Stream
from styx_agent.supervisor.spool import SEGMENT_BYTES

log = structlog.get_logger(__name__)

CHUNK_BYTES = 256 << 10
_REQUEST_BYTES = 1 << 20
_STREAM_WINDOW = 2 << 20
_AGENT_WINDOW = 8 << 20
_LAZY_MICROS = 200_000
_SOON_MICROS = 3_000
_SAME_REWIND_MICROS = 1_000_000
_WORTH_PACKING = 128
_FIRST_WAIT_SECONDS = 0.2
_LONGEST_WAIT_SECONDS = 10.0


class LogPusher:
    """Sends what the ledger's streams have, for one session.

    Args:
        open_call: starts a call of PushLogs.
        epoch: of the session.
        compress: whether the server takes packed chunks.
    """

    def __init__(
        self, ledger: Ledger, data_dir: Path, open_call: Callable[[], Any], *, epoch: int, compress: bool
    ) -> None:
        self._ledger = ledger
        self._attempts = data_dir / "attempts"
        self._open_call = open_call
        self._epoch = epoch
        self._packer = zstandard.ZstdCompressor(level=1) if compress else None
        self._waiting: dict[tuple[int, str], Stream] = {}
        self._unacked = 0
        self._interest: frozenset[int] = frozenset()
        self._wake = asyncio.Event()
        self._rewound: dict[tuple[int, str], tuple[int, int]] = {}
        self._doubts: dict[tuple[int, str], tuple[Stream, int]] = {}

    def on_growth(self, stream: Stream) -> None:
        """A stream has news: more output, or the end of it."""
        if stream.unsent > 0:
            if stream.waiting_since is None:
                stream.waiting_since = clock.boottime_micros()
            self._waiting.setdefault((stream.fence, stream.name), stream)
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
                group.create_task(self._write_chunks(call))
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
                continue
            self._wake.clear()
            await clock.wait_for_event(self._wake, self._seconds_to_next())

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
            self._ledger.condemn(ack.fence)
            return
        name = codec.STREAM_NAMES.get(ack.stream)
        held = self._ledger.get(ack.fence)
        stream = held.streams.get(name) if held is not None and name is not None else None
        if stream is None or name is None:
            return
        if ack.rewind:
            self._rewind(stream, ack.durable_offset)
        self._ledger.stored(ack.fence, name, ack.durable_offset)

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
        for key, stream in list(self._waiting.items()):
            if room <= 0:
                break
            if stream.unsent <= 0:  # an ack went past it
                del self._waiting[key]
                continue
            if not self._is_due(stream, now) or stream.sent - stream.durable >= _STREAM_WINDOW:
                continue
            chunk = self._next_chunk(stream, min(room, CHUNK_BYTES))
            chunks.append(chunk)
            room -= chunk.length
            self._unacked += chunk.length
            del self._waiting[key]
            if stream.unsent:
                self._waiting[key] = stream  # at the end: the others first
            else:
                stream.waiting_since = None
        return chunks

    def _is_due(self, stream: Stream, now: int) -> bool:
        return stream.unsent >= CHUNK_BYTES or now >= self._due_at(stream)

    def _due_at(self, stream: Stream) -> int:
        held = self._ledger.get(stream.fence)
        if held is None or held.ended or held.condemned:
            return 0
        patience = _SOON_MICROS if stream.fence in self._interest else _LAZY_MICROS
        return (stream.waiting_since or 0) + patience

    def _seconds_to_next(self) -> float | None:
        times = [at for _, at in self._doubts.values()]
        if self._unacked < _AGENT_WINDOW:
            times += [
                self._due_at(stream)
                for stream in self._waiting.values()
                if stream.sent - stream.durable < _STREAM_WINDOW
            ]
        return max(0, min(times) - clock.boottime_micros()) / 1e6 if times else None

    def _next_chunk(self, stream: Stream, limit: int) -> wire.LogChunk:
        chunk = wire.LogChunk(fence=stream.fence, stream=codec.STREAMS[stream.name])
        gap = next((gap for gap in stream.gaps if gap[0] <= stream.sent < gap[1]), None)
        if gap is not None:
            gap = (stream.sent, min(gap[1], stream.end), gap[2])
            stream.sent = gap[1]
        chunk.offset = stream.sent
        data = self._read(stream, limit)
        if gap is None and not data:
            gap = (stream.sent, min(stream.end, stream.sent + limit), "disk_error")
            log.error("spool_unreadable", fence=stream.fence, stream=stream.name, offset=stream.sent)
            chunk.offset = gap[1]
            stream.sent = gap[1]
        if gap is not None:
            chunk.gap.CopyFrom(codec.gaps([gap])[0])
        chunk.length = len(data)
        chunk.codec, chunk.data = self._pack(data)
        self._add_times(chunk, stream)
        stream.sent += len(data)
        return chunk

    def _read(self, stream: Stream, limit: int) -> bytes:
        """Bytes from `sent` on: up to the limit, the next gap and the end of the segment."""
        base = stream.sent // SEGMENT_BYTES * SEGMENT_BYTES
        stops = [stream.end, stream.sent + limit, base + SEGMENT_BYTES]
        stops += [start for start, _, _ in stream.gaps if start > stream.sent]
        length = min(stops) - stream.sent
        if length <= 0:
            return b""
        try:
            fd = os.open(self._attempts / str(stream.fence) / f"{stream.name}.{base}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return b""
        try:
            return os.pread(fd, length, stream.sent - base)
        except OSError:
            return b""
        finally:
            os.close(fd)

    def _pack(self, data: bytes) -> tuple[wire.LogChunk.Codec, bytes]:
        """Packed if that pays by a tenth."""
        if self._packer is not None and len(data) >= _WORTH_PACKING:
            packed = self._packer.compress(data)
            if len(packed) * 10 <= len(data) * 9:
                return wire.LogChunk.ZSTD, packed
        return wire.LogChunk.IDENTITY, data

    def _add_times(self, chunk: wire.LogChunk, stream: Stream) -> None:
        """The mark that holds at the first byte, and each one within."""
        now = clock.realtime_micros()
        before: tuple[int, int] | None = None
        marks: list[tuple[int, int]] = []
        for offset, when in stream.marks:
            if offset <= chunk.offset:
                before = (chunk.offset, when)
            elif offset < chunk.offset + chunk.length:
                marks.append((offset, when))
        for offset, when in ([before] if before else []) + marks:
            chunk.time_offsets.append(offset - chunk.offset)
            chunk.time_ages_micros.append(max(0, now - when))
