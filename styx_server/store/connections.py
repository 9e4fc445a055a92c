"""Connections that are lent for the length of a block.

A pool takes a task, two timers and a queue for each loan, which costs as much as a short query. So a few connections
stay at hand when they come back from a block that went well; all others, and all that follows from failure and age, is
the pool's.
"""

from __future__ import annotations

from contextlib import suppress
from types import TracebackType
from typing import Final

import asyncpg
from asyncpg.pool import PoolConnectionProxy

_AT_HAND: Final = 4
_ROUNDS: Final = 100
"""Every so many loans one goes back to the pool, which renews connections that are old."""


class Connections:
    """A pool, and a few connections of it that are at hand.

    Args:
        acquire_seconds: how long a borrower waits for a connection.
        release_seconds: how long one that comes back after a failure may take to be fit again.
        unfit: what may go wrong while one comes back: the pool has closed it then.
    """

    def __init__(
        self,
        pool: asyncpg.Pool[asyncpg.Record],
        *,
        acquire_seconds: float,
        release_seconds: float,
        unfit: tuple[type[BaseException], ...],
    ) -> None:
        self._pool = pool
        self._acquire_seconds = acquire_seconds
        self._release_seconds = release_seconds
        self._unfit = unfit
        self._at_hand: list[PoolConnectionProxy[asyncpg.Record]] = []
        self._waiting = 0
        self._loans = 0

    def lend(self) -> Loan:
        """A connection for the length of a block."""
        return Loan(self)

    async def expire(self) -> None:
        """None that is open now is used again."""
        await self._pool.expire_connections()
        while self._at_hand:
            self._at_hand.pop().terminate()

    def terminate(self) -> None:
        """Closes all, waiting for none."""
        self._at_hand.clear()
        self._pool.terminate()

    async def acquire(self) -> PoolConnectionProxy[asyncpg.Record]:
        """One that is at hand, or else from the pool."""
        while self._at_hand:
            connection = self._at_hand.pop()
            if _is_open(connection):
                return connection
            await self.give_back(connection)
        self._waiting += 1
        try:
            return await self._pool.acquire(timeout=self._acquire_seconds)
        finally:
            self._waiting -= 1

    async def give_back(self, connection: PoolConnectionProxy[asyncpg.Record]) -> None:
        """Back to the pool, which finds out whether it is fit for another use."""
        # One that cannot be tidied up is closed by the pool; what it answered before still counts.
        with suppress(*self._unfit):
            await self._pool.release(connection, timeout=self._release_seconds)

    def keep(self, connection: PoolConnectionProxy[asyncpg.Record]) -> bool:
        """Puts it at hand; False when it is to go back to the pool, where others may wait for it."""
        self._loans += 1
        if self._waiting or len(self._at_hand) >= _AT_HAND or not self._loans % _ROUNDS:
            return False
        self._at_hand.append(connection)
        return True


class Loan:
    """One connection, until the block ends."""

    __slots__ = ("_connection", "_connections")

    _connection: PoolConnectionProxy[asyncpg.Record]

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def __aenter__(self) -> PoolConnectionProxy[asyncpg.Record]:
        self._connection = await self._connections.acquire()
        return self._connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None or not self._connections.keep(self._connection):
            await self._connections.give_back(self._connection)


def _is_open(connection: PoolConnectionProxy[asyncpg.Record]) -> bool:
    try:
        return not connection.is_closed()
    except asyncpg.InterfaceError:
        # It was closed under the pool, which has taken it back.
        return False
