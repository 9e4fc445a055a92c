"""How link and supervisor speak: frames over a unix socket, each a length and a JSON list of messages.

Used from both sides, so it knows neither. A message is an object with the key `op`; one that the other side does not
know is ignored, a field that it does not know too. Version 1:

From the link: `hello {version}`, `start {...}` (see `rules.StartOrder`), `stop {fence, cause, grace_micros}`,
`extend {sent_micros, window_micros}`, `recorded {fences}`, `free {fence, stream, below}`, `forget {fence}`,
`shutdown {stop_tasks}`, `stop_all {cause, grace_micros}`, `capacity {cpus_milli, memory_bytes}`.
From the supervisor: `welcome {version, program, supervisor_id, boot_id, isolation, lease, attempts}`,
`changed {attempt}`, `grown {fence, stream, end, marks, gaps}`. `program` and `queue` came later: who does not say them
is older; who says `queue` starts an attempt when there is room for it.

Links and supervisors of different versions meet at every upgrade, so what is written here may only be added to;
`tests/agent/transcripts` holds how version 1 spoke.

Next: `door.py` is the supervisor's end, `styx_agent/supervisor_client.py` the link's.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

VERSION = 1
SOCKET_NAME = "supervisor.sock"
MAX_FRAME_BYTES = 256 << 20

Message = dict[str, Any]

_LENGTH = struct.Struct(">I")


class BadFrame(Exception):
    """The other side does not speak this language; the connection is of no use."""


def encode(messages: list[Message]) -> bytes:
    """One frame."""
    body = json.dumps(messages, separators=(",", ":")).encode("ascii")
    return _LENGTH.pack(len(body)) + body


class FrameReader:
    """Cuts what arrives into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes | memoryview) -> list[Message]:
        """Takes bytes as they came; gives the messages that are complete with them.

        Raises:
            BadFrame: it is no frame, or one beyond the bound.
        """
        self._buffer += data
        messages: list[Message] = []
        start = 0
        while len(self._buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, start)
            if length > MAX_FRAME_BYTES:
                raise BadFrame(f"a frame of {length} bytes")
            end = start + _LENGTH.size + length
            if len(self._buffer) < end:
                break
            messages += _decode(self._buffer[start + _LENGTH.size : end])
            start = end
        del self._buffer[:start]
        return messages


def _decode(body: bytearray) -> list[Message]:
    try:
        messages = json.loads(body)
    except ValueError as error:
        raise BadFrame(str(error)) from None
    if not isinstance(messages, list) or not all(isinstance(message, dict) and "op" in message for message in messages):
        raise BadFrame("not a list of messages")
    return messages


@contextlib.contextmanager
def socket_address(data_dir: str) -> Iterator[str]:
    """A short name for the socket: the kernel allows 107 bytes, data directories are longer.

    Bind or connect inside the block.
    """
    fd = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{SOCKET_NAME}"
    finally:
        os.close(fd)


def dial(data_dir: str) -> socket.socket:
    """A connection to the supervisor of this data directory.

    Raises:
        OSError: there is none.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with socket_address(data_dir) as address:
            connection.connect(address)
    except BaseException:
        connection.close()
        raise
    return connection
