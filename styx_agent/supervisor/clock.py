"""The one home of time in the supervisor. Next: `reactor.py`, which waits by it."""

from __future__ import annotations

import time

SECOND = 1_000_000


def boottime_micros() -> int:
    """Microseconds since the machine started. Goes on while the machine is suspended, never jumps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


def realtime_micros() -> int:
    """Microseconds since 1970. May jump; only for telling people when something was."""
    return time.clock_gettime_ns(time.CLOCK_REALTIME) // 1000


def boot_id() -> str:
    """Identity of this start of the machine."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def monotonic() -> float:
    """Seconds, for patience."""
    return time.monotonic()


def sleep(seconds: float) -> None:
    """Waits; only before the reactor goes round."""
    time.sleep(seconds)
