"""Calls take turns for the database; beats and loops always find a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

import asyncpg
import pytest

from styx_server.core.errors import Unavailable
from styx_server.embedded import PostgresAddress
from styx_server.store.database import connect
from styx_server.store.lanes import CallLane, serving_call
from tests.support.postgres import connected
from tests.support.server import gathered, started
from tests.support.until import soon


async def as_call(work: Awaitable[Any]) -> Any:
    """Does something as the door does it for a caller."""
    serving_call.set(True)
    return await work


async def test_beats_find_a_connection_while_callers_fill_theirs(database: PostgresAddress) -> None:
    store = await connect(**database.arguments())
    try:
        async with connected(database) as other, other.transaction():
            await other.execute("lock table tasks in access exclusive mode")
            calls = [started(as_call(store.fetch("count_tasks"))) for _ in range(100)]
            await soon(lambda: store._lane._waiting > 0, "callers wait")
            for _ in range(20):
                assert await store.fetch("read_leases") == []
            for call in calls:
                call.cancel()
            answers = await gathered(calls)
            assert {type(answer) for answer in answers} == {asyncio.CancelledError}
        assert await as_call(store.fetch("count_tasks")) == []
    finally:
        await store.close()


async def test_one_who_has_a_turn_needs_no_other() -> None:
    lane = CallLane(places=1, waiters=1, seconds=0.01)

    async def nested() -> None:
        async with lane.turn(), lane.turn():
            pass

    await started(as_call(nested()))


async def test_who_waits_too_long_is_told() -> None:
    lane = CallLane(places=0, waiters=1, seconds=0.01)
    with pytest.raises(Unavailable, match="busy"):
        await started(as_call(hold(lane, asyncio.Event())))


async def test_who_comes_behind_too_many_is_told_at_once() -> None:
    lane = CallLane(places=1, waiters=1, seconds=60)
    leave = asyncio.Event()
    first = started(as_call(hold(lane, leave)))
    await soon(lane._places.locked, "the place is taken")
    second = started(as_call(hold(lane, leave)))
    await soon(lambda: lane._waiting == 1, "one waits")
    with pytest.raises(Unavailable, match="1 calls wait"):
        await started(as_call(hold(lane, leave)))
    leave.set()
    await first
    await second


async def hold(lane: CallLane, leave: asyncio.Event) -> None:
    async with lane.turn():
        await leave.wait()


async def test_an_answer_that_came_counts_though_its_connection_died_after_it(database: PostgresAddress) -> None:
    store = await connect(**database.arguments())
    try:
        async with store.transaction() as transaction:
            assert await transaction.fetch("count_tasks") == []
            pid = transaction._connection.get_server_pid()
        async with store.transaction() as transaction:
            await transaction.fetch("count_tasks")
        async with connected(database) as other:
            assert isinstance(other, asyncpg.Connection)
            await other.execute("select pg_terminate_backend($1)", pid)
        await gathered([store.fetch("count_tasks") for _ in range(3)])
        assert await store.fetch("count_tasks") == []
    finally:
        await store.close()
