"""Drops what is older than it has to be kept: whole days of events and output; request ids and refusals in batches.

A day with rows of a task that has not ended is kept whole. Which days are old is judged by the slower of two clocks,
the database's and ours, so that one of them being far ahead takes nothing away.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import Final

from asyncpg.pool import PoolConnectionProxy

from styx_server.store.database import Database, Row
from styx_server.store.partitions import TABLES

REQUEST_DAYS: Final = 7
"""How long a request id is remembered, as the API promises."""
_REQUEST_BATCH: Final = 5000
REFUSED_DAYS: Final = 7
"""How long is told what a provider refused; where much is out of stock, that is many a day."""
_REFUSED_BATCH: Final = 500
_DAY: Final = re.compile(r"_(\d{4})(\d{2})(\d{2})$")

_LIVES: Final = """
    select exists (select from tasks where state < 4 and exists (select from {name} where {name}.task_id = tasks.id))
"""
_MOVE_FLOOR: Final = """
    insert into retention_floors (name, txid, seq)
    select 'task_events', txid, seq from {name} order by txid desc, seq desc limit 1
    on conflict (name) do update set txid = excluded.txid, seq = excluded.seq
    where (retention_floors.txid, retention_floors.seq) < (excluded.txid, excluded.seq)
"""


async def drop_expired(database: Database, now: datetime, *, days: int) -> list[str]:
    """Drops the partitions that ended `days` ago or earlier; returns their names.

    Raises:
        Unavailable: the database is away, or somebody reads what is to be dropped; try again later.
    """
    async with database.connection() as connection:
        latest = min(now, await connection.fetchval("select now()"))
        horizon = (latest - timedelta(days=days)).astimezone(UTC).date()
        dropped = []
        for table in TABLES:
            for name, day in await _partitions(connection, table):
                if day < horizon and await _drop(connection, table, name):
                    dropped.append(name)
        return dropped


async def forget_requests(database: Database) -> bool:
    """Removes some request ids that are too old to be repeated; returns whether there may be more."""
    rows = await database.fetch("forget_requests", days=REQUEST_DAYS, count=_REQUEST_BATCH)
    return len(rows) == _REQUEST_BATCH


async def forget_refused(database: Database) -> bool:
    """Removes some instances that never came to be; returns whether there may be more."""
    rows = await database.fetch("forget_refused", days=REFUSED_DAYS, count=_REFUSED_BATCH)
    return len(rows) == _REFUSED_BATCH


async def _partitions(connection: PoolConnectionProxy[Row], table: str) -> list[tuple[str, date]]:
    rows = await connection.fetch(
        "select inhrelid::regclass::text as name from pg_inherits where inhparent = $1::text::regclass order by 1",
        table,
    )
    found = [(row["name"], _DAY.search(row["name"])) for row in rows]
    return [(name, date(*map(int, day.groups()))) for name, day in found if day is not None]


async def _drop(connection: PoolConnectionProxy[Row], table: str, name: str) -> bool:
    """Drops a partition, unless a task that has not ended has rows in it."""
    async with connection.transaction():
        # Everybody who writes has to wait while this waits, so it waits for a moment only.
        await connection.execute("set local lock_timeout = '1s'")
        # From here on no row can come in that the question below does not see.
        await connection.execute(f"lock table {name} in share row exclusive mode")
        if await connection.fetchval(_LIVES.format(name=name)):
            return False
        if table == "task_events":
            await connection.execute(_MOVE_FLOOR.format(name=name))
        await connection.execute(f"drop table {name}")
        return True
