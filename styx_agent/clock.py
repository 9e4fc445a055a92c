"""The one home of time in the link. Next: `supervisor/clock.py`, the same for the other process."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path


def boottime_micros() -> int:
    """Microseconds since the machine started; the clock of leases. The supervisor reads the same one."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


def realtime_micros() -> int:
    """Microseconds since 1970; the clock of time marks in output."""
    return time.clock_gettime_ns(time.CLOCK_REALTIME) // 1000


def boot_id() -> str:
    """Identity of this start of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


async def sleep(seconds: float) -> None:
    """Waits."""
    await asyncio.sleep(seconds)


async def wait_for_event(event: asyncio.Event, seconds: float | None) -> bool:
    """Waits until the event is set, at most that long; whether it is."""
    if event.is_set():
        return True
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return event.is_set()
    return True
