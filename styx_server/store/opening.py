"""Finds the database at the start: waits until it takes connections, refuses one that forgets, brings the schema.

A server that starts beside its database is often the quicker of the two, so it waits, and says what for.
"""

from __future__ import annotations

from typing import Any, Final

import asyncpg
import structlog

from styx_server import clock
from styx_server.core.errors import Unavailable
from styx_server.ids import jitter
from styx_server.store.database import Database, connect, migrate_database, translated

_log = structlog.get_logger()

_LONGEST_PAUSE_SECONDS: Final = 5.0
_CONNECT_SECONDS: Final = 10.0
_OLDEST: Final = 140000
_SAFE: Final = {"fsync": "on", "full_page_writes": "on"}

# Waiting does not help against these; the other ways of being away may end by themselves.
_NEVER: Final = (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError)


class DatabaseUnusable(Exception):
    """The database answers, and this server must not use it; the message says why and what to do."""


async def open_database(
    *, wait_seconds: float, accept_unsafe: bool, replica: int | None = None, **address: Any
) -> Database:
    """Opens the database, with the schema of this program.

    Args:
        wait_seconds: how long to wait for one that is away, starting or read-only.
        accept_unsafe: use also one that may lose what it has confirmed.
        replica: number of this server.
        address: as `connect` takes it.

    Raises:
        Unavailable: it was away for all that time.
        DatabaseUnusable: it is too old, or may lose what it has confirmed.
        MigrationError: the schema and this program do not go together.
    """
    until = clock.monotonic() + wait_seconds
    pause = 0.2
    while True:
        try:
            await _check(accept_unsafe=accept_unsafe, **address)
            await migrate_database(**address)
            return await connect(replica=replica, **address)
        except Unavailable as error:
            left = until - clock.monotonic()
            if left <= 0 or isinstance(error.__cause__, _NEVER):
                raise
            _log.warning("database_awaited", error=str(error), seconds_left=round(left))
        await clock.sleep(min(left, pause * (0.5 + jitter() / 2)))
        pause = min(_LONGEST_PAUSE_SECONDS, pause * 2)


async def _check(*, accept_unsafe: bool, **address: Any) -> None:
    with translated():
        connection = await asyncpg.connect(timeout=_CONNECT_SECONDS, command_timeout=_CONNECT_SECONDS, **address)
        try:
            version = int(await connection.fetchval("show server_version_num"))
            if version < _OLDEST:
                raise DatabaseUnusable(f"PostgreSQL {version // 10000} is too old; Styx needs 14 or newer")
            if await connection.fetchval("select pg_is_in_recovery()"):
                raise Unavailable("the database is a standby, or still recovering; name the primary")
            values = {name: await connection.fetchval(f"show {name}") for name in (*_SAFE, "synchronous_commit")}
        finally:
            connection.terminate()
    wrong = [f"{name} = {values[name]}" for name, good in _SAFE.items() if values[name] != good]
    if values["synchronous_commit"] == "off":
        wrong.append("synchronous_commit = off")
    if wrong and not accept_unsafe:
        raise DatabaseUnusable(
            f"the database has {' and '.join(wrong)}, so a crash of it can lose tasks that were confirmed; turn that "
            "on, or say --unsafe-database if nobody will miss them"
        )
    if wrong:
        _log.warning("database_unsafe", settings=wrong)
