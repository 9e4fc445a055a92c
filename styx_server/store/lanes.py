"""Who waits for a connection when there are not enough: calls take turns, what keeps agents alive does not.

Beats, reports, output and loops run in tasks of their own and have the rest of the connections to themselves, so a
thousand callers who list tasks cost no agent its lease.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar, Token
from types import TracebackType
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

    def turn(self) -> Turn:
        """A turn for the length of a block; one who has a turn, and one who serves no call, needs none.

        Raises:
            Unavailable: on entering: there are too many callers.
        """
        return Turn(self)

    async def take(self) -> None:
        """Waits for a place; errors as `turn`."""
        if self._places.locked():
            await self._wait()
        else:
            await self._places.acquire()

    def give(self) -> None:
        """Gives a place back."""
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


class Turn:
    """One turn; written out, because every query goes through it."""

    __slots__ = ("_lane", "_mark")

    def __init__(self, lane: CallLane) -> None:
        self._lane = lane
        self._mark: Token[bool] | None = None

    async def __aenter__(self) -> None:
        if serving_call.get() and not _has_turn.get():
            await self._lane.take()
            self._mark = _has_turn.set(True)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._mark is not None:
            _has_turn.reset(self._mark)
            self._lane.give()
