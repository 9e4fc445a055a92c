"""Repeats loops: on a wake-up or a jittered period; what fails is logged, waits, and is tried again.

The one place besides the outermost handlers that catches every exception: a loop that dies in silence is an outage.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import structlog

from styx_server.clock import Clock
from styx_server.core.errors import Retryable
from styx_server.ids import jitter

_log = structlog.get_logger()

Item = TypeVar("Item")

_FIRST_PAUSE_SECONDS: Final = 0.2
_LONGEST_PAUSE_SECONDS: Final = 5.0


class Wake:
    """A wake-up call for one loop. Calling it while the loop works makes it go round once more."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def __call__(self) -> None:
        """Asks for another pass."""
        self._event.set()

    async def wait(self, seconds: float) -> None:
        """Returns after a call, or after `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            pass
        self._event.clear()


async def repeat(
    name: str, once: Callable[[], Awaitable[float | None]], *, wake: Wake, period_seconds: float, clock: Clock
) -> None:
    """Runs `once` for ever.

    Args:
        name: for the log.
        once: one pass; may return the seconds until it wants the next one, which shortens the period.
        wake: makes the next pass come at once.
        period_seconds: the longest wait between passes; the real one is up to a tenth shorter.
        clock: for the pauses after failures.
    """
    pause = _FIRST_PAUSE_SECONDS
    while True:
        try:
            wanted = await once()
        except Retryable as error:
            _log.warning("loop_postponed", loop=name, error=str(error))
            await clock.sleep(pause * (0.5 + jitter() / 2))
            pause = min(_LONGEST_PAUSE_SECONDS, pause * 2)
            continue
        except Exception:  # noqa: BLE001 - see the docstring of this module
            _log.exception("loop_failed", loop=name)
            await clock.sleep(pause * (0.5 + jitter() / 2))
            pause = min(_LONGEST_PAUSE_SECONDS, pause * 2)
            continue
        pause = _FIRST_PAUSE_SECONDS
        longest = period_seconds * (1 - jitter() / 10)
        await wake.wait(longest if wanted is None else min(longest, wanted))


async def drain(name: str, queue: asyncio.Queue[Item], handle: Callable[[Item], Awaitable[None]], clock: Clock) -> None:
    """Hands every item of a queue to `handle`, for ever and in order; one that fails for now is tried again."""
    while True:
        item = await queue.get()
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                await handle(item)
                break
            except Retryable as error:
                _log.warning("item_postponed", loop=name, error=str(error))
                await clock.sleep(pause)
                pause = min(_LONGEST_PAUSE_SECONDS, pause * 2)
            except Exception:  # noqa: BLE001 - see the docstring of this module
                _log.exception("item_failed", loop=name)
                break
