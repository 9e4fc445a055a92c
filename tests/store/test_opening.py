"""Finding the database at the start: patience, and what is refused."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import pytest
from structlog.testing import capture_logs

from styx_server.core.errors import Unavailable
from styx_server.embedded import PostgresAddress
from styx_server.store.opening import DatabaseUnusable, open_database
from tests.support.postgres import connected
from tests.support.server import started
from tests.support.until import soon


@pytest.fixture
async def shut(database: PostgresAddress) -> AsyncIterator[asyncpg.Connection]:
    """The database lets nobody in; the connection is one to another."""
    async with connected(database.with_database("postgres")) as other:
        await other.execute(f"alter database {database.database} allow_connections false")
        yield other
        await other.execute(f"alter database {database.database} allow_connections true")


async def test_a_database_that_may_forget_is_refused_by_the_names_of_its_settings(database: PostgresAddress) -> None:
    with pytest.raises(DatabaseUnusable, match=r"fsync = off and full_page_writes = off.*--unsafe-database"):
        await open_database(wait_seconds=0, accept_unsafe=False, **database.arguments())


async def test_a_database_that_may_forget_is_taken_when_that_is_said(database: PostgresAddress) -> None:
    with capture_logs() as lines:
        store = await open_database(wait_seconds=0, accept_unsafe=True, **database.arguments())
    assert any(line["event"] == "database_unsafe" for line in lines)
    assert await store.fetch("count_tasks") == []
    await store.close()


async def test_commits_that_do_not_wait_are_refused(database: PostgresAddress) -> None:
    async with connected(database) as own:
        await own.execute(f"alter database {database.database} set synchronous_commit = off")
    with pytest.raises(DatabaseUnusable, match="synchronous_commit = off"):
        await open_database(wait_seconds=0, accept_unsafe=False, **database.arguments())


async def test_a_database_that_comes_later_is_waited_for(database: PostgresAddress, shut: asyncpg.Connection) -> None:
    with capture_logs() as lines:
        opening = started(open_database(wait_seconds=60, accept_unsafe=True, **database.arguments()))
        await soon(lambda: any(line["event"] == "database_awaited" for line in lines), "it waits")
        await shut.execute(f"alter database {database.database} allow_connections true")
        store = await opening
    assert await store.fetch("count_tasks") == []
    await store.close()


async def test_a_database_that_stays_away_is_given_up(database: PostgresAddress, shut: asyncpg.Connection) -> None:
    with pytest.raises(Unavailable):
        await open_database(wait_seconds=0.3, accept_unsafe=True, **database.arguments())


async def test_a_wrong_password_is_said_at_once(database: PostgresAddress) -> None:
    began = time.monotonic()
    wrong = replace(database, password="wrong").arguments()
    with pytest.raises(Unavailable):
        await open_database(wait_seconds=600, accept_unsafe=True, **wrong)
    assert time.monotonic() - began < 60
