"""Connections at hand: quick while all is well, and never in the way of what the pool is for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from styx_server.embedded import PostgresAddress
from styx_server.store.database import Database, connect
from tests.support.postgres import connected
from tests.support.server import gathered


@pytest.fixture
async def store(database: PostgresAddress) -> AsyncIterator[Database]:
    store = await connect(**database.arguments(), max_connections=3)
    yield store
    await store.close()


async def pid(store: Database) -> int:
    async with store.connection() as connection:
        return int(connection.get_server_pid())


async def test_one_after_the_other_uses_the_same_connection(store: Database) -> None:
    assert len({await pid(store) for _ in range(20)}) == 1


async def test_one_that_was_cut_while_it_was_at_hand_is_not_lent_again(
    store: Database, database: PostgresAddress
) -> None:
    cut = await pid(store)
    async with store.connection() as connection, connected(database) as other:
        gone = asyncio.Event()
        connection.add_termination_listener(lambda _: gone.set())
        await other.execute("select pg_terminate_backend($1)", cut)
        await gone.wait()
    assert await pid(store) != cut
    assert await store.fetch("count_tasks") == []


async def test_after_an_expiry_every_connection_is_new(store: Database) -> None:
    before = await pid(store)
    await store._connections.expire()
    assert await pid(store) != before
    assert await store.fetch("count_tasks") == []


async def test_one_that_failed_goes_back_to_the_pool(store: Database) -> None:
    with pytest.raises(ZeroDivisionError):
        async with store.connection():
            raise ZeroDivisionError
    assert store._connections._at_hand == []
    assert await store.fetch("count_tasks") == []


async def test_those_who_wait_get_the_connections_that_come_back(store: Database) -> None:
    answers = await gathered([store.fetch("count_tasks") for _ in range(200)])
    assert answers == [[]] * 200
