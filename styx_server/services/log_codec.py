"""Packing of log bytes: chunks come as they were written or as one Zstandard frame, times as packed pairs."""

from __future__ import annotations

import struct
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import IntEnum
from typing import Final

import zstandard

MAX_CHUNK_BYTES: Final = 256 * 1024
"""Longest chunk that agents send, raw."""

_PAIR: Final = struct.Struct("<iq")
_MAX_WINDOW: Final = 8 << 20
_of_thread: Final = threading.local()


class Codec(IntEnum):
    """How the bytes of a chunk are packed. Numbers are those of the wire and of the database."""

    IDENTITY = 1
    ZSTD = 2


def unpack(codec: Codec, data: bytes, length: int) -> bytes:
    """The raw bytes of a chunk.

    Raises:
        ValueError: they cannot be unpacked, or are not `length` bytes long.
    """
    if codec is Codec.ZSTD:
        try:
            # A frame that states its size is given that much room, whatever the bound: look before unpacking.
            stated = zstandard.get_frame_parameters(data)
            if stated.content_size not in (length, zstandard.CONTENTSIZE_UNKNOWN) or stated.window_size > _MAX_WINDOW:
                raise ValueError(f"a chunk of log states {stated.content_size} bytes and says {length}")
            data = _unpacker().decompress(data, max_output_size=length)
        except zstandard.ZstdError as error:
            raise ValueError(f"a chunk of log cannot be unpacked: {error}") from error
    if len(data) != length:
        raise ValueError(f"a chunk of log has {len(data)} bytes and says {length}")
    return data


def _unpacker() -> zstandard.ZstdDecompressor:
    """One for each thread: it is not to be shared, and making it takes longer than unpacking a few lines."""
    unpacker: zstandard.ZstdDecompressor | None = getattr(_of_thread, "unpacker", None)
    if unpacker is None:
        unpacker = _of_thread.unpacker = zstandard.ZstdDecompressor()
    return unpacker


def pack_times(times: Sequence[tuple[int, datetime]]) -> bytes:
    """Marks of (position less the start of the chunk, when), as stored: 32-bit position, 64-bit microseconds."""
    return b"".join(_PAIR.pack(position, int(when.timestamp() * 1_000_000)) for position, when in times)


def unpack_times(packed: bytes) -> list[tuple[int, datetime]]:
    """The marks of a stored chunk."""
    return [(position, datetime.fromtimestamp(micros / 1e6, UTC)) for position, micros in _PAIR.iter_unpack(packed)]
