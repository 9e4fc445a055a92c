"""A task that keeps its own record, so that nobody has to believe Styx. Standard library only, nothing of Styx.

    python -I -S stub.py FOLDER KEY '{"seconds": 1, "stdout": 1000, "codes": [0], ...}'

It writes to FOLDER/KEY/FENCE-PID.run: its start, a beat every 50 ms, how much output it has written, its end. It holds
FOLDER/KEY/lock for as long as it, or a child of it, lives: a second one that finds it held says OVERLAP. No clock is
needed for that. What it prints follows from its key and its fence alone, so anybody can say what a log should be.
"""

import fcntl
import hashlib
import json
import os
import signal
import sys
import time

BEAT_SECONDS = 0.05
FIRST_CHUNK_BYTES = 977
"""Chunks are of odd sizes, growing: neither lines nor blocks nor powers of two."""


def stream(key: str, fence: int, number: int, length: int) -> bytes:
    """The first bytes of what a run prints to descriptor `number`; a shorter one is the beginning of a longer one."""
    return hashlib.shake_128(f"{key}/{fence}/{number}".encode()).digest(length)


class Record:
    """The file of this run."""

    def __init__(self, folder: str, name: str) -> None:
        os.makedirs(folder, exist_ok=True)
        path = os.path.join(folder, f"{name}.run")
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)

    def write(self, what: str, *, durable: bool = False, **facts: object) -> None:
        """One line, in one write: a kill cuts between lines."""
        event = {"at": time.clock_gettime_ns(time.CLOCK_BOOTTIME), "what": what, **facts}
        os.write(self._fd, (json.dumps(event) + "\n").encode())
        if durable:
            os.fsync(self._fd)


class Output:
    """What is to be printed, a bit at a time."""

    def __init__(self, record: Record, key: str, fence: int, number: int, length: int) -> None:
        self._record = record
        self._number = number
        self._data = stream(key, fence, number, length)
        self._at = 0
        self._size = FIRST_CHUNK_BYTES

    def print_until(self, share: float) -> None:
        """Prints up to that share of all."""
        goal = len(self._data) if share >= 1 else int(len(self._data) * share)
        while self._at < goal:
            self._at += os.write(self._number, self._data[self._at : min(goal, self._at + self._size)])
            self._size = self._size * 3 % 65521 + 1
            self._record.write("wrote", stream=self._number, upto=self._at)


def _boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def _take_lock(folder: str, record: Record) -> int:
    lock = os.open(os.path.join(folder, "lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        record.write("OVERLAP", durable=True)
    return lock


def _live(record: Record, seconds: float, outputs: list[Output]) -> None:
    start = time.monotonic()
    while (passed := time.monotonic() - start) < seconds:
        record.write("beat", pid=os.getpid())
        for output in outputs:
            output.print_until(passed / seconds)
        time.sleep(min(BEAT_SECONDS, max(0.0, seconds - passed)))


def _leave_child(record: Record, plan: dict[str, float]) -> None:
    """A child in a session of its own, that ignores SIGTERM and would live for long: it must die with its task."""
    if os.fork():
        return
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _live(record, plan["child_seconds"], [])
    os._exit(0)


def main() -> int:
    """The task."""
    root, key, plan = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    fence, attempt = int(os.environ["STYX_FENCE"]), int(os.environ["STYX_ATTEMPT"])
    folder = os.path.join(root, key)
    record = Record(folder, f"{fence}-{os.getpid()}")
    record.write("start", durable=True, key=key, attempt=attempt, fence=fence, boot_id=_boot_id(), pid=os.getpid())
    _take_lock(folder, record)
    if plan.get("deaf"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if plan.get("child_seconds"):
        _leave_child(record, plan)
    outputs = [Output(record, key, fence, number, plan.get(name, 0)) for number, name in ((1, "stdout"), (2, "stderr"))]
    _live(record, plan.get("seconds", 0), outputs)
    for output in outputs:
        output.print_until(1)
    codes = plan.get("codes") or [0]
    code = codes[min(attempt, len(codes)) - 1]
    record.write("end", durable=True, code=code)
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
