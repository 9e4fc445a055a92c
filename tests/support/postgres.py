"""A PostgreSQL for the tests: one careless cluster for a run, one fresh database for each test that asks.

The schema is made once, in a template, and copied; a copy takes a tenth of a second. Next: `tests/conftest.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import asyncpg

from styx_server.embedded import EmbeddedPostgres, PostgresAddress
from styx_server.store.migrate import migrate

_TEMPLATE = "styx_template"


class DatabaseFactory:
    """Makes and drops databases in one cluster."""

    def __init__(self, server: PostgresAddress) -> None:
        self.server = server
        self._numbers = count(1)

    async def make_template(self) -> None:
        """Makes the database that all others are copies of, with the schema in it."""
        await self._execute(f"CREATE DATABASE {_TEMPLATE}")
        async with connected(self.server.with_database(_TEMPLATE)) as connection:
            await migrate(connection)

    @asynccontextmanager
    async def fresh(self, *, with_schema: bool = True) -> AsyncIterator[PostgresAddress]:
        """A database of one's own: with the schema, or with nothing in it."""
        name = f"test_{next(self._numbers)}"
        template = _TEMPLATE if with_schema else "template0"
        await self._execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY wal_log")
        try:
            yield self.server.with_database(name)
        finally:
            await self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    async def _execute(self, statement: str) -> None:
        async with connected(self.server) as connection:
            await connection.execute(statement)


@asynccontextmanager
async def connected(address: PostgresAddress) -> AsyncIterator[asyncpg.Connection]:
    """A connection for the length of a block."""
    connection = await asyncpg.connect(**address.arguments())
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def careless_cluster(folder: Path) -> AsyncIterator[PostgresAddress]:
    """A running cluster that would not survive a power cut, and need not."""
    postgres = EmbeddedPostgres(folder, fsync=False)
    await postgres.start()
    try:
        yield postgres.dsn
    finally:
        await postgres.stop()
