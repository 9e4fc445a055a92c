"""Makes chunks: reads bytes from the spool, packs them, adds gaps and time marks. Next: `logs.py`, which sends them."""

from __future__ import annotations

import errno
import math
import os
from bisect import bisect_right
from itertools import chain, islice, takewhile
from pathlib import Path

import structlog
import zstandard

from styx.agent.v1 import agent_service_pb2 as wire
from styx_agent import clock, codec
from styx_agent.ledger import Stream
from styx_agent.supervisor.spool import SEGMENT_BYTES

log = structlog.get_logger(__name__)

CHUNK_BYTES = 256 << 10
_WORTH_PACKING = 128


class ChunkMaker:
    """Chunks of the streams below one data directory.

    Args:
        compress: whether the server takes packed chunks.
    """

    def __init__(self, data_dir: Path, *, compress: bool) -> None:
        self._attempts = str(data_dir / "attempts")
        self._packer = zstandard.ZstdCompressor(level=1) if compress else None

    def next(self, stream: Stream, limit: int) -> wire.LogChunk:
        """A chunk from where the stream stands, of at most that many bytes; moves `sent` on.

        A range that was dropped, or that the disk does not give back, becomes a gap before or instead of bytes.
        """
        chunk = wire.LogChunk(fence=stream.fence, stream=codec.STREAMS[stream.name])
        gap = next((gap for gap in stream.gaps if gap[0] <= stream.sent < gap[1]), None)
        if gap is not None:
            gap = (stream.sent, min(gap[1], stream.end), gap[2])
            stream.sent = gap[1]
        chunk.offset = stream.sent
        data = self._read(stream, limit)
        if gap is None and not data:
            segment_end = (stream.sent // SEGMENT_BYTES + 1) * SEGMENT_BYTES
            gap = (stream.sent, min(stream.end, stream.sent + limit, segment_end), "disk_error")
            log.error("spool_unreadable", fence=stream.fence, stream=stream.name, offset=stream.sent)
            chunk.offset = gap[1]
            stream.sent = gap[1]
        if gap is not None:
            chunk.gap.CopyFrom(codec.gaps([gap])[0])
        chunk.length = len(data)
        chunk.codec, chunk.data = self._pack(data)
        _add_times(chunk, stream)
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
            fd = os.open(f"{self._attempts}/{stream.fence}/{stream.name}.{base}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            return _nothing(error)
        try:
            return os.pread(fd, length, stream.sent - base)
        except OSError as error:
            return _nothing(error)
        finally:
            os.close(fd)

    def _pack(self, data: bytes) -> tuple[wire.LogChunk.Codec, bytes]:
        """Packed if that pays by a tenth."""
        if self._packer is not None and len(data) >= _WORTH_PACKING:
            packed = self._packer.compress(data)
            if len(packed) * 10 <= len(data) * 9:
                return wire.LogChunk.ZSTD, packed
        return wire.LogChunk.IDENTITY, data


def _nothing(error: OSError) -> bytes:
    """No bytes, when the disk has lost them; what passes by itself is raised, and tried again in the next session."""
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR):
        raise error
    return b""


def _add_times(chunk: wire.LogChunk, stream: Stream) -> None:
    """The mark that holds at the first byte, and each one within."""
    now = clock.realtime_micros()
    end = chunk.offset + chunk.length
    first = bisect_right(stream.marks, (chunk.offset, math.inf))
    before = [(chunk.offset, when) for _, when in stream.marks[max(0, first - 1) : first]]
    within = takewhile(lambda mark: mark[0] < end, islice(stream.marks, first, None))
    for offset, when in chain(before, within):
        chunk.time_offsets.append(offset - chunk.offset)
        chunk.time_ages_micros.append(max(0, now - when))
