"""What the supervisor must not forget: one append-only file of JSON lines, written once a round.

`start` is in the file before a process exists, `end` before anybody hears of it: that is enough whichever program dies,
because what is written outlives its writer. Only when the machine dies is it not, and then no process is left that a
start could be needed for. An end is worth more, since without it the command runs again: what the server has not acked
soon is synced, many with one fdatasync. A torn last line is the mark of a crash and is dropped. Decides nothing. Next:
`recovery.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from typing import Any

from styx_agent.supervisor import clock

Record = dict[str, Any]

FILE_NAME = "attempts.journal"
_COMPACT_AFTER_LINES = 4000
_SYNC_MICROS = 100_000
"""An end that the server acks sooner need not be on disk at all."""


class Journal:
    """Starts and ends by fence, on disk and in memory.

    Args:
        call_after: makes a call that many microseconds later.
    """

    def __init__(self, directory: str, call_after: Callable[[int, Callable[[], None]], object]) -> None:
        self._directory = directory
        self._path = os.path.join(directory, FILE_NAME)
        self._lines: list[bytes] = []
        self._call_after = call_after
        self._unsynced: set[int] = set()
        self._sync_is_due = False
        self._written = 0
        self._file = -1
        self._size = 0
        self.starts: dict[int, Record] = {}
        self.ends: dict[int, Record] = {}
        self.boot_id = ""
        self._read()
        try:
            self._compact()
        except OSError:  # no room for a second one: the first goes on
            self._go_on()

    def boot(self, boot_id: str, supervisor_id: str) -> None:
        """A new supervisor begins."""
        self.boot_id = boot_id
        self._append({"k": "boot", "boot_id": boot_id, "supervisor_id": supervisor_id})

    def start(self, fence: int, order: Record) -> None:
        """This is about to be started."""
        record = {"k": "start", "fence": fence, "order": order}
        self.starts[fence] = record
        self._append(record)

    def end(self, fence: int, record: Record) -> None:
        """This is over."""
        record = {"k": "end", "fence": fence, **record}
        self.ends[fence] = record
        self._unsynced.add(fence)
        self._append(record)

    def forget(self, fence: int) -> None:
        """Nobody needs this any more."""
        if self.starts.pop(fence, None) is None:
            return
        self.ends.pop(fence, None)
        self._unsynced.discard(fence)
        self._append({"k": "forget", "fence": fence})

    def commit(self) -> bool:
        """Writes what was said since the last time; False when the disk does not take it now."""
        if not self._lines:
            return True
        data = b"".join(self._lines)
        try:
            _write_all(self._file, data)
        except OSError:
            # Half a line in the middle would spoil the whole one that is written after it.
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._size)
            return False
        self._size += len(data)
        self._lines = []
        if self._unsynced and not self._sync_is_due:
            self._sync_is_due = True
            self._call_after(_SYNC_MICROS, self._sync)
        if self._written > _COMPACT_AFTER_LINES and self._written > 4 * len(self.starts):
            self._written = 0  # should it fail, not again at once
            with contextlib.suppress(OSError):
                self._compact()
        return True

    def close(self) -> None:
        """Commits and closes."""
        self.commit()
        self._sync()
        os.close(self._file)

    def _sync(self) -> None:
        """Makes the ends durable that nobody has acked; tried again with the next one if the disk does not take it."""
        self._sync_is_due = False
        if self._unsynced:
            self._unsynced.clear()
            with contextlib.suppress(OSError):
                os.fdatasync(self._file)

    def _append(self, record: Record) -> None:
        self._lines.append(json.dumps(record, separators=(",", ":")).encode("ascii") + b"\n")
        self._written += 1

    def _read(self) -> None:
        try:
            with open(self._path, "rb") as file:
                data = file.read()
        except FileNotFoundError:
            return
        self._size = data.rfind(b"\n") + 1
        lines = data.split(b"\n")
        for line in lines[:-1]:
            try:
                self._replay(json.loads(line))
            except (ValueError, KeyError, TypeError):
                continue

    def _replay(self, record: Record) -> None:
        match record["k"]:
            case "boot":
                self.boot_id = record["boot_id"]
            case "start":
                self.starts[record["fence"]] = record
            case "end" if record["fence"] in self.starts:
                self.ends[record["fence"]] = record
            case "forget":
                self.starts.pop(record["fence"], None)
                self.ends.pop(record["fence"], None)

    def _go_on(self) -> None:
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._file, self._size)  # a torn last line would spoil the next one

    def _compact(self) -> None:
        records: list[Record] = [{"k": "boot", "boot_id": self.boot_id}]
        records += [*self.starts.values(), *self.ends.values()]
        temporary = self._path + ".new"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        data = b"".join(json.dumps(r, separators=(",", ":")).encode("ascii") + b"\n" for r in records)
        try:
            _write_all(fd, data)
            os.fsync(fd)
            os.replace(temporary, self._path)
        except OSError:
            os.close(fd)
            raise
        if self._file >= 0:
            os.close(self._file)
        self._file, self._size, self._written = fd, len(data), len(records)
        sync_directory(self._directory)


class LeaseFile:
    """The last acked beat, so that a restart of the supervisor neither resets nor stretches what hangs on it.

    Not synced: after a restart of the machine it means nothing, and until then the page cache holds it.
    """

    def __init__(self, directory: str) -> None:
        self._path = os.path.join(directory, "lease.json")

    def save(self, sent_micros: int, window_micros: int) -> None:
        """Replaces what was kept."""
        temporary = self._path + ".new"
        record = {"boot_id": clock.boot_id(), "sent_micros": sent_micros, "window_micros": window_micros}
        with contextlib.suppress(OSError):
            with open(temporary, "w", encoding="ascii") as file:
                json.dump(record, file)
            os.replace(temporary, self._path)

    def load(self) -> tuple[int, int] | None:
        """Send time and window, if they are of this start of the machine."""
        try:
            with open(self._path, encoding="ascii") as file:
                record = json.load(file)
            if record["boot_id"] != clock.boot_id():
                return None
            return int(record["sent_micros"]), int(record["window_micros"])
        except (OSError, ValueError, KeyError, TypeError):
            return None


def sync_directory(path: str) -> None:
    """Makes the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
