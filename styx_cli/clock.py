"""The command line's one home for time."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime


def now() -> datetime:
    """The time by this machine's clock, in UTC."""
    return datetime.now(UTC)


def monotonic() -> float:
    """Seconds on a clock that only goes forward; only differences mean something."""
    return time.monotonic()


def pause(seconds: float) -> None:
    """Waits, and blocks the program."""
    time.sleep(seconds)


async def sleep(seconds: float) -> None:
    """Waits without blocking the event loop."""
    await asyncio.sleep(seconds)
