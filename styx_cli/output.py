"""The output of tasks on this program's stdout and stderr.

Bytes go through untouched, unless a terminal is at the other end: then `sanitize.py` keeps them from driving it. With
times, each line begins with the moment when it was written.
"""

from __future__ import annotations

import bisect
import sys
from typing import BinaryIO

from styx.models import LogChunk, LogStream
from styx_cli.phrases import rfc3339
from styx_cli.sanitize import TerminalFilter
from styx_cli.settings import Settings, is_terminal, say

_UNKNOWN_TIME = "-" * 24


class LogWriter:
    """Writes chunks, each stream to where it belongs.

    Args:
        only: the one stream that was asked for; it is then the answer, and goes to stdout whichever it is.
    """

    def __init__(
        self, settings: Settings, *, raw: bool = False, timestamps: bool = False, only: str | None = None
    ) -> None:
        self._settings = settings
        self._attempt = 0
        out = _Sink(sys.stdout.buffer, safe=not raw and is_terminal(sys.stdout))
        err = out if only else _Sink(sys.stderr.buffer, safe=not raw and is_terminal(sys.stderr))
        self._sinks = {LogStream.STDOUT: out, LogStream.STDERR: err}
        self._stampers = {stream: _Stamper() for stream in self._sinks} if timestamps else {}
        self.written_bytes = 0

    def write(self, chunk: LogChunk) -> None:
        """Writes a chunk at once; blocks while the reader is slow.

        Raises:
            BrokenPipeError: nobody reads any more.
        """
        self._announce(chunk)
        sink = self._sinks.get(chunk.stream, self._sinks[LogStream.STDOUT])
        stamper = self._stampers.get(chunk.stream)
        sink.write(stamper.stamp(chunk) if stamper else chunk.data)
        self.written_bytes += len(chunk.data)
        if chunk.end_of_stream:
            sink.finish()

    def close(self) -> None:
        """Writes what is held back, and puts the colours of the terminal back."""
        for sink in self._sinks.values():
            sink.finish()

    def _announce(self, chunk: LogChunk) -> None:
        if self._attempt and chunk.attempt > self._attempt:
            say(self._settings, f"styx: attempt {chunk.attempt}")
        self._attempt = max(self._attempt, chunk.attempt)
        for gap in chunk.gaps:
            where = f"bytes {gap.start_offset} to {gap.end_offset} of {chunk.stream.value.lower()}"
            say(self._settings, f"styx: {where} are missing ({gap.reason})")
        if chunk.incomplete:
            stream = chunk.stream.value.lower()
            say(self._settings, f"styx: more of {stream} may be with an agent that cannot be reached; ask again later")


class _Sink:
    """One of our two streams."""

    def __init__(self, file: BinaryIO, *, safe: bool) -> None:
        self._file = file
        self._filter = TerminalFilter() if safe else None

    def write(self, data: bytes) -> None:
        if self._filter:
            data = self._filter.feed(data).encode("utf-8", "replace")
        if data:
            self._file.write(data)
            self._file.flush()

    def finish(self) -> None:
        if self._filter:
            self._file.write(self._filter.finish().encode("utf-8", "replace"))
            self._file.flush()


class _Stamper:
    """Puts the time in front of each line of one stream."""

    def __init__(self) -> None:
        self._at_line_start = True
        self._time = _UNKNOWN_TIME

    def stamp(self, chunk: LogChunk) -> bytes:
        """The bytes of the chunk, with times."""
        offsets = [mark.offset for mark in chunk.times]
        words = [rfc3339(mark.time) if mark.time else _UNKNOWN_TIME for mark in chunk.times]
        out = bytearray()
        position = chunk.offset
        for line in _lines(chunk.data):
            mark = bisect.bisect_right(offsets, position) - 1
            if mark >= 0:
                self._time = words[mark]
            if self._at_line_start:
                out += self._time.encode() + b" "
            out += line
            self._at_line_start = line.endswith(b"\n")
            position += len(line)
        return bytes(out)


def _lines(data: bytes) -> list[bytes]:
    """Cut after each line feed only; `bytes.splitlines` would cut at carriage returns too."""
    parts = data.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])
