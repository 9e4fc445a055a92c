"""A task that keeps its own record: `python -I -S crash_witness.py FOLDER [--exit CODE] [--stubborn]`.

Each word of the record is on disk before the next thing happens. A file that it holds locked betrays a second run of
the same task at the same time. What it writes to its streams it writes to files too, first, to be compared later.
Standard library only: it runs as a task, without Styx in reach.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import signal
import time

_BURSTS = 6
_PAUSE_SECONDS = 0.03
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC


class Witness:
    """One run."""

    def __init__(self, folder: str) -> None:
        self.task, self.fence = os.environ["STYX_TASK_ID"], os.environ["STYX_FENCE"]
        self.folder = folder
        self.record = os.open(f"{folder}/{self.task}.record", _APPEND, 0o600)
        self.lock = os.open(f"{folder}/{self.task}.lock", _APPEND, 0o600)

    def note(self, word: str) -> None:
        os.write(self.record, f"{word} {self.fence} {os.environ['STYX_ATTEMPT']} {os.getpid()}\n".encode())
        os.fsync(self.record)

    def hold(self) -> None:
        """Takes the lock; who cannot have it says so."""
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.note("overlap")

    def write(self, number: int, name: str, data: bytes) -> None:
        """The same bytes to a file and to a stream."""
        copy = os.open(f"{self.folder}/{self.fence}.{name}", _APPEND, 0o600)
        os.write(copy, data)
        os.close(copy)
        with contextlib.suppress(BrokenPipeError):  # a pipe without a reader is no reason to die by oneself
            while data:
                data = data[os.write(number, data) :]

    def work(self) -> None:
        """Bursts of bytes that are different in each run, and that no compression makes small."""
        for burst in range(_BURSTS):
            seed = hashlib.sha256(f"{self.task} {self.fence} {burst}".encode()).digest()
            self.write(1, "stdout", hashlib.shake_256(seed).digest(4096 * (1 + burst)))
            self.write(2, "stderr", f"burst {burst}\n".encode())
            time.sleep(_PAUSE_SECONDS)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--exit", type=int, default=0)
    parser.add_argument("--stubborn", action="store_true", help="never ends, and does not listen to SIGTERM")
    options = parser.parse_args()
    if options.stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    witness = Witness(options.folder)
    witness.hold()
    witness.note("start")
    witness.work()
    while options.stubborn:
        signal.pause()
    witness.note("end")
    raise SystemExit(options.exit)


if __name__ == "__main__":
    main()
