"""The door to PostgreSQL: a pool, named queries, transactions, and one translation of "it is away".

Everything that cannot reach the database, or loses it midway, leaves here as `Unavailable`. Whether a write whose
answer was lost is stored is then unknown; every write of ours is keyed, so callers may repeat it.

Calls take turns for a part of the connections (`lanes.py`): beats, reports and loops always find one.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final, Protocol

import asyncpg
import structlog
from asyncpg.pool import PoolConnectionProxy

from styx_server import clock
from styx_server.core.errors import Unavailable
from styx_server.store.connections import Connections
from styx_server.store.lanes import CallLane
from styx_server.store.migrate import migrate
from styx_server.store.queries import load

Row = asyncpg.Record

_log = structlog.get_logger()

_SESSION: Final = {
    "application_name": "styx",
    "timezone": "UTC",
    "statement_timeout": "12s",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "15s",
    "jit": "off",
    # Every query finds its rows by index (tests/store/test_plans.py). A plan is kept for as long as its connection
    # lives, also one that was made when the table was empty and reading all of it looked cheapest.
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}
_CONNECTIONS: Final = 20
_CALL_CONNECTIONS: Final = 12
_CALL_WAITERS: Final = 2000
# A connection that only listens would not notice for hours that the other side has vanished.
_KEEPALIVE: Final = {"tcp_keepalives_idle": "10", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "3"}
_ACQUIRE_SECONDS: Final = 5.0
_RELEASE_SECONDS: Final = 1.0
_COMMAND_SECONDS: Final = 15.0
"""Longer than PostgreSQL's own limit on a statement: who passes it is a database that does not answer at all."""
_SAY_AGAIN_SECONDS: Final = 1.0

# Away, starting, stopping, closed to us, out of connections, out of disk, a lock that took too long, read-only after a
# failover; and what the driver says when a connection was cut under it.
_AWAY: Final = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.ObjectNotInPrerequisiteStateError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.PostgresSystemError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.LockNotAvailableError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
)


class Executor(Protocol):
    """What can run named queries: the database itself, or a transaction."""

    async def fetch(self, name: str, /, **values: object) -> list[Row]:
        """All rows."""
        ...

    async def fetch_row(self, name: str, /, **values: object) -> Row | None:
        """The first row, if any."""
        ...

    async def execute(self, name: str, /, **values: object) -> None:
        """No rows."""
        ...


class Transaction:
    """One transaction; ends with the block that made it."""

    def __init__(self, connection: PoolConnectionProxy[Row]) -> None:
        self._connection = connection
        self._queries = load()

    async def fetch(self, name: str, /, **values: object) -> list[Row]:
        """All rows of a named query."""
        query = self._queries[name]
        return await self._connection.fetch(query.sql, *query.arguments(values))

    async def fetch_row(self, name: str, /, **values: object) -> Row | None:
        """The first row of a named query, if any."""
        query = self._queries[name]
        return await self._connection.fetchrow(query.sql, *query.arguments(values))

    async def execute(self, name: str, /, **values: object) -> None:
        """Runs a named query for its effect."""
        query = self._queries[name]
        await self._connection.fetch(query.sql, *query.arguments(values))

    async def copy(self, table: str, columns: list[str], records: Sequence[tuple[object, ...]]) -> None:
        """Appends rows with COPY, the quickest way in for bytes."""
        await self._connection.copy_records_to_table(table, columns=columns, records=records)


class Database:
    """A pool of connections to one database.

    Make it with `connect`; close it when everything that uses it has stopped.

    Attributes:
        on_lost: told whenever the database could not be reached, or was lost before it answered.
        failures: how often each query, outside of transactions, was not answered.
    """

    def __init__(self, pool: asyncpg.Pool[Row]) -> None:
        self._connections = Connections(
            pool, acquire_seconds=_ACQUIRE_SECONDS, release_seconds=_RELEASE_SECONDS, unfit=_AWAY
        )
        self._queries = load()
        self._lane = CallLane(places=_CALL_CONNECTIONS, waiters=_CALL_WAITERS, seconds=_ACQUIRE_SECONDS)
        self.on_lost: Callable[[], None] = lambda: None
        self.failures: Counter[str] = Counter()

    async def fetch(self, name: str, /, **values: object) -> list[Row]:
        """All rows of a named query, in a transaction of its own.

        Raises:
            Unavailable: the database is away.
        """
        query = self._queries[name]
        arguments = query.arguments(values)
        try:
            async with self._lane.turn(), self._connections.lend() as connection:
                return await connection.fetch(query.sql, *arguments)
        except Unavailable:
            self.failures[name] += 1
            raise
        except _AWAY as error:
            self.failures[name] += 1
            raise await self._was_lost(error) from error

    async def fetch_row(self, name: str, /, **values: object) -> Row | None:
        """The first row of a named query, if any; errors as `fetch`."""
        rows = await self.fetch(name, **values)
        return rows[0] if rows else None

    async def execute(self, name: str, /, **values: object) -> None:
        """Runs a named query for its effect; errors as `fetch`."""
        await self.fetch(name, **values)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """A transaction that commits when the block ends, and rolls back when it raises; errors as `fetch`."""
        async with self._lane.turn():
            try:
                async with self._connections.lend() as connection, connection.transaction():
                    yield Transaction(connection)
            except (asyncio.CancelledError, Unavailable):
                # Its caller left, perhaps after the commit was sent.
                self.on_lost()
                raise
            except _AWAY as error:
                raise await self._was_lost(error) from error

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[PoolConnectionProxy[Row]]:
        """A bare connection, for migrations and other definitions."""
        with translated():
            async with self._connections.lend() as connection:
                yield connection

    async def _was_lost(self, error: BaseException) -> Unavailable:
        if isinstance(error, TimeoutError):
            # Its host may be gone without a word, and the other connections with it: each would cost as long.
            await self._connections.expire()
        self.on_lost()
        return _away(error)

    async def close(self) -> None:
        """Closes every connection, waiting for none that hangs."""
        self._connections.terminate()


async def connect(*, max_connections: int = _CONNECTIONS, replica: int | None = None, **address: Any) -> Database:
    """Opens a pool.

    Args:
        max_connections: the most connections that are open at once.
        replica: number of the server that writes; it is stored with every event.
        address: as `asyncpg.connect` takes it: `dsn`, or `host`, `user`, `password`, `database`.

    Raises:
        Unavailable: nobody answers there.
    """
    with translated():
        pool = await asyncpg.create_pool(
            min_size=1,
            max_size=max_connections,
            max_inactive_connection_lifetime=300.0,
            command_timeout=_COMMAND_SECONDS,
            server_settings=_SESSION if replica is None else _SESSION | {"styx.replica": str(replica)},
            init=_prepare_connection,
            reset=_leave_as_it_is,
            **address,
        )
    return Database(pool)


async def open_connection(**address: Any) -> asyncpg.Connection[Row]:
    """A connection of its own, for what a pool cannot do: to listen, and to hold a lock for a lifetime.

    Raises:
        Unavailable: nobody answers there.
    """
    with translated():
        return await asyncpg.connect(timeout=_ACQUIRE_SECONDS, server_settings=_SESSION | _KEEPALIVE, **address)


async def migrate_database(**address: Any) -> list[str]:
    """Brings the schema of a database up to date, on a connection of its own; returns what was applied.

    Raises:
        Unavailable: nobody answers there.
        MigrationError: the schema and this program do not go together.
    """
    with translated():
        connection = await asyncpg.connect(**address)
        try:
            return await migrate(connection)
        finally:
            await connection.close()


@contextmanager
def translated() -> Iterator[None]:
    """Turns every way of "the database is away" into `Unavailable`."""
    try:
        yield
    except _AWAY as error:
        raise _away(error) from error


def _away(error: BaseException) -> Unavailable:
    # The driver's words may name hosts and users, so they go no further than our own log.
    _say(str(error) or type(error).__name__)
    return Unavailable("the database cannot be reached now; try again")


_said: dict[str, float] = {}


def _say(error: str) -> None:
    """Logs why the database is away, not once for each of a thousand callers."""
    now = clock.monotonic()
    if now - _said.get(error, -_SAY_AGAIN_SECONDS) < _SAY_AGAIN_SECONDS:
        return
    if len(_said) > 100:
        _said.clear()
    _said[error] = now
    _log.warning("database_away", error=error)


async def _prepare_connection(connection: asyncpg.Connection[Row]) -> None:
    await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=_encode_json, decoder=json.loads)


async def _leave_as_it_is(connection: asyncpg.Connection[Row]) -> None:
    """No query of ours leaves anything behind on a connection; tidying up would cost a round trip for each of them."""


def _encode_json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True)
