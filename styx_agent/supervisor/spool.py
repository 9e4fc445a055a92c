"""One stream of output on disk, until the server has it.

A byte's place is fixed: offset `o` is in the segment file `<stream>.<base>` with `base = o // SEGMENT * SEGMENT`, at
`o - base`. So the link finds every byte by arithmetic, and a dropped range is a hole. The newest segment stays until
the attempt is forgotten: its length tells a later supervisor where the stream ended. The digest is of the bytes that
were kept, in order. Knows no pipes. Next: `capture.py`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from typing import Any

SEGMENT_BYTES = 8 << 20
_MARK_EVERY_MICROS = 10_000
_MAX_MARKS = 4096
_RESERVE_BYTES = 32 << 20
_RESERVE_SHARE = 16
_CHECK_BYTES = 1 << 20


class Spool:
    """Bytes of one stream: [freed, end) is what is still wanted."""

    def __init__(self, directory: str, name: str, limit_bytes: int) -> None:
        self.name = name
        self.end = 0
        self.freed = 0
        self.gaps: list[tuple[int, int, str]] = []
        self.marks: list[tuple[int, int]] = []
        self._directory = directory
        self.limit = limit_bytes
        self._digest = hashlib.sha256()
        self._base = -1
        self._fd = -1
        self._oldest = 0
        self._told = -1
        self._unchecked = 0

    @property
    def room(self) -> int:
        """How much more may be kept."""
        return self.freed + self.limit - self.end

    def append(self, data: memoryview, now_micros: int) -> None:
        """Keeps bytes.

        Raises:
            OSError: the disk did not take all of them; `end` says how far it got.
        """
        self._leave_reserve(len(data))
        if data and (not self.marks or now_micros - self.marks[-1][1] >= _MARK_EVERY_MICROS):
            self._mark(now_micros)
        while data:
            base = self.end // SEGMENT_BYTES * SEGMENT_BYTES
            if base != self._base:
                self._open(base)
            place = self.end - base
            written = os.pwrite(self._fd, data[: SEGMENT_BYTES - place], place)
            self._digest.update(data[:written])
            self.end += written
            data = data[written:]

    def skip(self, length: int, reason: str) -> None:
        """Counts bytes that are not kept."""
        start, self.end = self.end, self.end + length
        if self.gaps and self.gaps[-1][1] == start and self.gaps[-1][2] == reason:
            start = self.gaps.pop()[0]
        self.gaps.append((start, self.end, reason))

    def free(self, below: int) -> None:
        """Nobody wants the bytes below any more."""
        self.freed = max(self.freed, min(below, self.end))
        newest = self.end // SEGMENT_BYTES * SEGMENT_BYTES if self._base < 0 else self._base
        while self._oldest + SEGMENT_BYTES <= self.freed and self._oldest < newest:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path(self._oldest))
            self._oldest += SEGMENT_BYTES
        while len(self.marks) > 1 and self.marks[1][0] <= self.freed:
            self.marks.pop(0)

    def close(self) -> None:
        """No more comes."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def summary(self) -> dict[str, Any]:
        """What the end report says of it."""
        return {"stream": self.name, "total": self.end, "sha256": self._digest.hexdigest(), "gaps": self.gaps}

    def position(self) -> dict[str, Any]:
        """Where it stands."""
        return {"stream": self.name, "end": self.end, "freed": self.freed, "gaps": self.gaps, "marks": self.marks}

    def news(self) -> dict[str, Any]:
        """Where it stands, with the marks that were not in the last news."""
        fresh: list[tuple[int, int]] = []
        for mark in reversed(self.marks):
            if mark[0] <= self._told:
                break
            fresh.append(mark)
        if fresh:
            self._told = fresh[0][0]
        return {**self.position(), "marks": fresh[::-1]}

    def _mark(self, now_micros: int) -> None:
        if len(self.marks) >= _MAX_MARKS:
            self.marks = self.marks[::2]
        self.marks.append((self.end, now_micros))

    def _leave_reserve(self, length: int) -> None:
        """Output stops before the disk is full: the agent itself must be able to write, or nothing ever empties it."""
        self._unchecked += length
        if self._base >= 0 and self._unchecked < _CHECK_BYTES:
            return
        parent = self._directory if self._base >= 0 else os.path.dirname(self._directory)
        disk = os.statvfs(parent)
        if disk.f_bavail * disk.f_frsize < min(_RESERVE_BYTES, disk.f_blocks * disk.f_frsize // _RESERVE_SHARE):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._unchecked = 0

    def _open(self, base: int) -> None:
        self.close()
        self._base = -1
        self._fd = self._create(base)
        self._base = base

    def _create(self, base: int) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        try:
            return os.open(self._path(base), flags, 0o600)
        except FileNotFoundError:  # the first byte of the attempt
            os.mkdir(self._directory, 0o700)
            return os.open(self._path(base), flags, 0o600)

    def _path(self, base: int) -> str:
        return f"{self._directory}/{self.name}.{base}"


def measure(directory: str, name: str, gaps: list[tuple[int, int, str]] | None = None) -> dict[str, Any] | None:
    """What can still be said of a stream whose supervisor has died; None: it never had a byte.

    The digest is empty when a part has been freed already.
    """
    prefix = name + "."
    bases = sorted(int(file[len(prefix) :]) for file in os.listdir(directory) if file.startswith(prefix))
    if not bases:
        return None
    end = bases[-1] + os.stat(f"{directory}/{prefix}{bases[-1]}").st_size
    whole = bases == list(range(0, bases[-1] + 1, SEGMENT_BYTES)) and not gaps
    digest = hashlib.sha256()
    for base in bases if whole else ():
        with open(f"{directory}/{prefix}{base}", "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return {"stream": name, "total": end, "sha256": digest.hexdigest() if whole else "", "gaps": gaps or []}
