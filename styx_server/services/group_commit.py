"""Many callers, one commit: items gather while the previous flush is in flight and are written together.

Idle, an item is flushed at once; loaded, a flush carries what came during the last one. No timer is involved. An item
whose caller has left is dropped: it holds no memory while the database is away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

import structlog

from styx_server.clock import Clock
from styx_server.core.errors import StyxError, Unavailable

_log = structlog.get_logger()

Item = TypeVar("Item")
Result = TypeVar("Result")
_Entries = list[tuple[Item, asyncio.Future[Result]]]

_FIRST_PAUSE_SECONDS: Final = 0.1


class GroupCommit(Generic[Item, Result]):
    """Gathers items and hands them to `flush`, which answers with one result for each.

    Args:
        name: for the log.
        flush: writes a batch; all of it is stored, or an exception says that this is not known.
        weigh: how much an item counts towards `max_weight`.
        max_weight: a flush takes no more than this, but always at least one item.
        patience: while the database is away an item is kept, and tried again after at most so many seconds; 0: its
            caller is told at once.

    Attributes:
        linger: seconds to wait for company before each flush, for items that nobody waits for.
    """

    def __init__(
        self,
        name: str,
        flush: Callable[[list[Item]], Awaitable[list[Result]]],
        *,
        clock: Clock,
        weigh: Callable[[Item], int] = lambda _: 1,
        max_weight: int = 2000,
        patience: Callable[[Item], float] = lambda _: 0.0,
    ) -> None:
        self._name = name
        self._flush = flush
        self._clock = clock
        self._weigh = weigh
        self._max_weight = max_weight
        self._patience = patience
        self.linger: Callable[[], float] = lambda: 0.0
        self._waiting: dict[asyncio.Future[Result], Item] = {}
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
        (result,) = await self.add_many([item])
        return result

    async def add_many(self, items: Sequence[Item]) -> list[Result]:
        """As `add` for several items, in order and without a task for each."""
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Result]] = [loop.create_future() for _ in items]
        self._waiting.update(zip(futures, items, strict=True))
        self._arrived.set()
        try:
            return [await future for future in futures]
        except asyncio.CancelledError:
            for future in futures:
                future.cancel()
                self._waiting.pop(future, None)
            raise

    def put(self, item: Item) -> None:
        """As `add` for who does not wait, and hears of no error."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._waiting[future] = item
        self._arrived.set()

    async def run(self) -> None:
        """Flushes for ever; one of these runs for each instance."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                if seconds := self.linger():
                    await self._clock.sleep(seconds)
                await self._flush_batch(self._take())

    def _take(self) -> _Entries[Item, Result]:
        weight = 0
        batch: _Entries[Item, Result] = []
        for future, item in self._waiting.items():
            weight += self._weigh(item)
            if weight > self._max_weight and batch:
                break
            batch.append((item, future))
        for _, future in batch:
            del self._waiting[future]
        return batch

    async def _flush_batch(self, batch: _Entries[Item, Result]) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while batch := [entry for entry in batch if not entry[1].done()]:
            try:
                results = await self._flush([item for item, _ in batch])
            except Unavailable as error:
                batch = self._without_impatient(batch, error)
            except Exception as error:  # noqa: BLE001 - callers wait: each must get an answer, whatever happens
                await self._flush_apart(batch, error)
                return
            else:
                _settle(batch, results)
                return
            if batch:
                await self._clock.sleep(pause)
                pause = min(pause * 2, *(self._patience(item) for item, _ in batch))

    def _without_impatient(self, batch: _Entries[Item, Result], error: Unavailable) -> _Entries[Item, Result]:
        kept = [entry for entry in batch if self._patience(entry[0])]
        _fail([entry for entry in batch if not self._patience(entry[0])], error)
        if kept:
            _log.warning("flush_postponed", flush=self._name, items=len(kept), error=str(error))
        return kept

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


def _settle(batch: _Entries[Item, Result], results: list[Result]) -> None:
    for (_, future), result in zip(batch, results, strict=True):
        if not future.done():
            future.set_result(result)


def _fail(batch: _Entries[Item, Result], error: StyxError) -> None:
    for _, future in batch:
        if not future.done():
            future.set_exception(error)
