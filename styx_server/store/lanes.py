"""Who waits for a connection when there are not enough: calls take turns, what keeps agents alive does not.

Beats, reports, output and loops run in tasks of their own and have the rest of the connections to themselves, so a
thousand callers who list tasks cost no agent its lease.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Final

from styx_server.core.errors import Unavailable

serving_call: Final[ContextVar[bool]] = ContextVar("serving_call", default=False)
"""Whether what runs now was asked for by a caller; set at the door, for the length of the call."""

_has_turn: Final[ContextVar[bool]] = ContextVar("has_turn", default=False)


class CallLane:
    """The turns of calls.

    Args:
        places: how many calls use the database at once.
        waiters: how many more may wait.
        seconds: how long each waits at most.
    """

    def __init__(self, *, places: int, waiters: int, seconds: float) -> None:
        self._places = asyncio.Semaphore(places)
        self._waiting = 0
        self._waiters = waiters
        self._seconds = seconds

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Waits for a turn and keeps it; one who has a turn, and one who serves no call, needs none.

        Raises:
            Unavailable: there are too many callers.
        """
        if _has_turn.get() or not serving_call.get():
            yield
            return
        await self._wait()
        mark = _has_turn.set(True)
        try:
            yield
        finally:
            _has_turn.reset(mark)
            self._places.release()

    async def _wait(self) -> None:
        if self._waiting >= self._waiters:
            raise Unavailable(f"{self._waiters:,} calls wait for the database; try again")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._seconds):
                await self._places.acquire()
        except TimeoutError:
            raise Unavailable("the database is busy with other calls; try again") from None
        finally:
            self._waiting -= 1
