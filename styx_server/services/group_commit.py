"""Many callers, one commit: items gather while the previous flush is in flight and are written together.

Idle, an item is flushed at once; loaded, a flush carries what came during the last one. No timer is involved.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import structlog

from styx_server.clock import Clock
from styx_server.core.errors import StyxError, Unavailable

_log = structlog.get_logger()

Item = TypeVar("Item")
Result = TypeVar("Result")
_Entries = list[tuple[Item, asyncio.Future[Result]]]


class GroupCommit(Generic[Item, Result]):
    """Gathers items and hands them to `flush`, which answers with one result for each.

    Args:
        name: for the log.
        flush: writes a batch; all of it is stored, or an exception says that this is not known.
        weigh: how much an item counts towards `max_weight`.
        max_weight: a flush takes no more than this, but always at least one item.
        patient: whether to keep a batch and try again while the database is away, instead of failing its callers.
    """

    def __init__(
        self,
        name: str,
        flush: Callable[[list[Item]], Awaitable[list[Result]]],
        *,
        clock: Clock,
        weigh: Callable[[Item], int] = lambda _: 1,
        max_weight: int = 2000,
        patient: bool = False,
    ) -> None:
        self._name = name
        self._flush = flush
        self._clock = clock
        self._weigh = weigh
        self._max_weight = max_weight
        self._patient = patient
        self._waiting: _Entries[Item, Result] = []
        self._arrived = asyncio.Event()

    @property
    def depth(self) -> int:
        """How many items wait for a flush."""
        return len(self._waiting)

    async def add(self, item: Item) -> Result:
        """Returns the result for `item` once the flush that carried it is stored.

        Raises:
            StyxError: whatever `flush` raised; for `Unavailable` it is not known whether the item is stored.
        """
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self._arrived.set()
        return await future

    async def add_many(self, items: Sequence[Item]) -> list[Result]:
        """As `add` for several items, in order and without a task for each."""
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Result]] = [loop.create_future() for _ in items]
        self._waiting.extend(zip(items, futures, strict=True))
        self._arrived.set()
        return [await future for future in futures]

    async def run(self) -> None:
        """Flushes for ever; one of these runs for each instance."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                await self._flush_batch(self._take())

    def _take(self) -> _Entries[Item, Result]:
        weight = 0
        for count, (item, _) in enumerate(self._waiting):
            weight += self._weigh(item)
            if weight > self._max_weight and count:
                break
        else:
            count = len(self._waiting)
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch

    async def _flush_batch(self, batch: _Entries[Item, Result]) -> None:
        try:
            results = await self._write([item for item, _ in batch])
        except Unavailable as error:
            _fail(batch, error)
        except Exception as error:  # noqa: BLE001 - callers wait: each must get an answer, whatever happens
            await self._flush_apart(batch, error)
        else:
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)

    async def _write(self, items: list[Item]) -> list[Result]:
        pause = 0.1
        while True:
            try:
                return await self._flush(items)
            except Unavailable as error:
                if not self._patient:
                    raise
                _log.warning("flush_postponed", flush=self._name, items=len(items), error=str(error))
            await self._clock.sleep(pause)
            pause = min(2.0, pause * 2)

    async def _flush_apart(self, batch: _Entries[Item, Result], error: Exception) -> None:
        """One bad item must not fail the others: writes them one by one."""
        if len(batch) > 1:
            for entry in batch:
                await self._flush_batch([entry])
        elif isinstance(error, StyxError):
            _fail(batch, error)
        else:
            _log.error("flush_failed", flush=self._name, exc_info=error)
            _fail(batch, StyxError(f"a bug in the server stopped {self._name}: {type(error).__name__}"))


def _fail(batch: _Entries[Item, Result], error: StyxError) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)
