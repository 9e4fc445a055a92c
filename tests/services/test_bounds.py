"""What waits for the database has a bound, keeps its order, and goes when its caller goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from styx_server.clock import SystemClock
from styx_server.core.errors import Exhausted, Unavailable
from styx_server.services.budget import Budget
from styx_server.services.group_commit import GroupCommit
from tests.support.server import started
from tests.support.until import soon


class Store:
    """Takes batches while it is open; says that it is away while it is not."""

    def __init__(self) -> None:
        self.open = True
        self.refused = 0
        self.batches: list[list[int]] = []

    async def flush(self, items: list[int]) -> list[int]:
        if not self.open:
            self.refused += 1
            raise Unavailable("away; try again")
        self.batches.append(items)
        return items


@asynccontextmanager
async def working(store: Store) -> AsyncIterator[GroupCommit[int, int]]:
    """Odd items are patient, even ones are not."""
    commits = GroupCommit("test", store.flush, clock=SystemClock(), patience=lambda item: float(item % 2))
    work = started(commits.run())
    try:
        yield commits
    finally:
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work


async def test_an_impatient_item_fails_at_once_and_a_patient_one_is_kept() -> None:
    store = Store()
    store.open = False
    async with working(store) as commits:
        kept = started(commits.add(1))
        with pytest.raises(Unavailable):
            await commits.add(2)
        assert not kept.done()
        store.open = True
        assert await kept == 1
    assert store.batches == [[1]]


async def test_what_its_caller_gave_up_is_not_kept() -> None:
    store = Store()
    store.open = False
    async with working(store) as commits:
        flying = started(commits.add(1))
        await soon(lambda: store.refused > 0, "a refused flush")
        waiting = started(commits.add_many([3, 5]))
        await soon(lambda: commits.depth == 2, "two that wait")
        for call in (flying, waiting):
            call.cancel()
            with suppress(asyncio.CancelledError):
                await call
        assert commits.depth == 0
        store.open = True
        assert await commits.add(7) == 7
    assert store.batches == [[7]]


async def test_what_nobody_waits_for_is_stored_or_dropped_in_silence() -> None:
    store = Store()
    store.open = False
    async with working(store) as commits:
        commits.put(2)
        await soon(lambda: store.refused == 1, "a refused flush")
        store.open = True
        commits.put(4)
        assert await commits.add(1) == 1
    assert store.batches == [[4, 1]]


async def test_who_finds_no_room_waits_in_order() -> None:
    budget = Budget(100, "output")
    await budget.take(60)
    order: list[int] = []

    async def take(size: int) -> None:
        await budget.take(size)
        order.append(size)

    calls = [started(take(50)), started(take(10))]
    await asyncio.sleep(0)
    assert not budget.try_take(1)
    budget.give(60)
    await asyncio.gather(*calls)
    assert (order, budget.used) == ([50, 10], 60)


async def test_who_would_wait_behind_too_much_is_sent_away() -> None:
    budget = Budget(100, "output")
    await budget.take(100)
    waiting = started(budget.take(90))
    await asyncio.sleep(0)
    with pytest.raises(Exhausted, match="output"):
        await budget.take(11)
    budget.give(100)
    await waiting
    assert budget.used == 90


async def test_who_leaves_the_queue_gives_up_nothing_and_keeps_nothing() -> None:
    budget = Budget(100, "output")
    await budget.take(100)
    first, second = started(budget.take(50)), started(budget.take(50))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    budget.give(100)
    await second
    assert budget.used == 50
    third = started(budget.take(60))
    await asyncio.sleep(0)
    budget.give(50)
    third.cancel()
    with suppress(asyncio.CancelledError):
        await third
    assert budget.used == 0


async def test_a_thing_larger_than_all_room_is_let_in_alone() -> None:
    budget = Budget(100, "output")
    await budget.take(500)
    budget.give(500)
    assert budget.used == 0
