"""The one home of time in the server. Everybody else is given a value or a `Clock`.

Durations are measured on the monotonic clock; wall-clock time is for people and never decides a lease.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What can tell the time and wait."""

    def now(self) -> datetime:
        """Wall-clock time, with the time zone UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back; only differences mean anything."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Lets others run for `seconds`."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> datetime:
        """Wall-clock time, with the time zone UTC."""
        return now()

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back."""
        return monotonic()

    async def sleep(self, seconds: float) -> None:
        """Lets others run for `seconds`."""
        await sleep(seconds)


def now() -> datetime:
    """Wall-clock time, with the time zone UTC."""
    return datetime.now(UTC)


def monotonic() -> float:
    """Seconds on a clock that never goes back; only differences mean anything."""
    return time.monotonic()


def boottime() -> float:
    """Seconds since this machine started, the time that it was suspended for included; the same in every process."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


async def sleep(seconds: float) -> None:
    """Lets others run for `seconds`."""
    import asyncio  # not every process that tells the time has an event loop

    await asyncio.sleep(seconds)
