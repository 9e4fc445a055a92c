"""Fixtures that every kind of test may ask for.

`database`: the address of a fresh database with the schema. `pool`: connections to it. `empty_database`: the address of
one with nothing in it. The cluster behind them starts when the first test asks.
"""

from __future__ import annotations

import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from styx_server.embedded import PostgresAddress
from tests.support.postgres import DatabaseFactory, careless_cluster


def pytest_configure() -> None:
    """Whoever starts the run in the background may have told it to ignore interrupts; programs under test must not."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
async def databases() -> AsyncIterator[DatabaseFactory]:
    """The run's cluster."""
    # Not pytest's own folder: a socket's path is short, and old runs are kept there.
    with tempfile.TemporaryDirectory(prefix="styx-test-") as folder:
        async with careless_cluster(Path(folder)) as server:
            yield DatabaseFactory(server)


@pytest.fixture(scope="session")
async def databases_with_schema(databases: DatabaseFactory) -> DatabaseFactory:
    """The run's cluster, with the template in it."""
    await databases.make_template()
    return databases


@pytest.fixture
async def database(databases_with_schema: DatabaseFactory) -> AsyncIterator[PostgresAddress]:
    """A fresh database with the schema."""
    async with databases_with_schema.fresh() as address:
        yield address


@pytest.fixture
async def empty_database(databases: DatabaseFactory) -> AsyncIterator[PostgresAddress]:
    """A fresh database with nothing in it."""
    async with databases.fresh(with_schema=False) as address:
        yield address


@pytest.fixture
async def pool(database: PostgresAddress) -> AsyncIterator[asyncpg.Pool]:
    """Connections to a fresh database with the schema."""
    async with asyncpg.create_pool(**database.arguments(), min_size=1, max_size=5) as connections:
        yield connections
