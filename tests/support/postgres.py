"""A PostgreSQL for the tests: one careless cluster for a run, one fresh database for each test that asks.

The schema is made once, in a template, and copied. The first copy after anything else takes a quarter of a second, the
next ones a fiftieth, so copies are made in batches. Next: `tests/conftest.py`.
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
_BATCH = 16


class DatabaseFactory:
    """Makes and drops databases in one cluster."""

    def __init__(self, server: PostgresAddress) -> None:
        self.server = server
        self._numbers = count(1)
        self._stock: list[str] = []
        self._batch = 1

    async def make_template(self) -> None:
        """Makes the database that all others are copies of, with the schema in it."""
        await self._execute(f"CREATE DATABASE {_TEMPLATE}")
        async with connected(self.server.with_database(_TEMPLATE)) as connection:
            await migrate(connection)

    @asynccontextmanager
    async def fresh(self, *, with_schema: bool = True) -> AsyncIterator[PostgresAddress]:
        """A database of one's own: with the schema, or with nothing in it."""
        name = await self._copied() if with_schema else await self._empty()
        try:
            yield self.server.with_database(name)
        finally:
            await self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    async def _copied(self) -> str:
        if not self._stock:
            names = [f"test_{next(self._numbers)}" for _ in range(self._batch)]
            # A run of one test shall not wait for a batch that it does not need.
            self._batch = min(_BATCH, self._batch * 4)
            await self._execute(*(f"CREATE DATABASE {name} TEMPLATE {_TEMPLATE} STRATEGY file_copy" for name in names))
            self._stock += names  # only now: somebody else may ask meanwhile
        return self._stock.pop()

    async def _empty(self) -> str:
        name = f"test_{next(self._numbers)}"
        await self._execute(f"CREATE DATABASE {name} TEMPLATE template0 STRATEGY file_copy")
        return name

    async def _execute(self, *statements: str) -> None:
        async with connected(self.server) as connection:
            for statement in statements:
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
