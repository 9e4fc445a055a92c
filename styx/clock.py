"""The SDK's one home for time: what time it is, how long something took, and waiting.

Everybody else is given these functions or calls them from here, so that a reader finds every wait in one place.
"""

from __future__ import annotations

import asyncio
import time


def monotonic() -> float:
    """Seconds on a clock that only goes forward; only differences mean something."""
    return time.monotonic()


def pause(seconds: float) -> None:
    """Waits, and everything in this thread with it."""
    time.sleep(seconds)


async def sleep(seconds: float) -> None:
    """Waits without blocking the event loop."""
    await asyncio.sleep(seconds)
