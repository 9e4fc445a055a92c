"""A bound on the bytes that wait in memory: who finds no room waits outside, in order, and then is sent away."""

from __future__ import annotations

import asyncio
from collections import deque

from styx_server.core.errors import Exhausted


class Budget:
    """Bytes to be shared.

    Args:
        limit: so many are in use at most, and so many more wait for room at most.
        what: for the message to those who find no room.
    """

    def __init__(self, limit: int, what: str) -> None:
        self._limit = limit
        self._what = what
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._queued = 0
        self.used = 0

    def try_take(self, size: int) -> bool:
        """Takes room at once, if there is some. The first one is let in whatever its size."""
        if self._queue or (self.used and self.used + size > self._limit):
            return False
        self.used += size
        return True

    async def take(self, size: int) -> None:
        """Takes room, waiting for it in order.

        Raises:
            Exhausted: as much as may be in use is waiting already.
        """
        if self.try_take(size):
            return
        if self._queued + size > self._limit:
            raise Exhausted(f"{self._limit >> 20} MiB of {self._what} wait for the database; send it again later")
        turn = asyncio.get_running_loop().create_future()
        entry = (size, turn)
        self._queue.append(entry)
        self._queued += size
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(size)
            else:
                self._queue.remove(entry)
                self._queued -= size
                self._let_in()
            raise

    def give(self, size: int) -> None:
        """Gives room back."""
        self.used -= size
        self._let_in()

    def _let_in(self) -> None:
        while self._queue and (not self.used or self.used + self._queue[0][0] <= self._limit):
            size, turn = self._queue.popleft()
            self._queued -= size
            self.used += size
            turn.set_result(None)
