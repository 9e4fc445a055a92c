"""Partitions of the append-only tables, one a day (UTC), made ahead of time, so that old days can be dropped whole."""

from __future__ import annotations

from contextlib import suppress
from datetime import date, datetime, timedelta
from typing import Final

import asyncpg

from styx_server.store.database import Database

TABLES: Final = ("task_events", "log_chunks")
DAYS_AHEAD: Final = 2


async def make_partitions(database: Database, now: datetime) -> None:
    """Makes the partitions of today and of the next two days; those that exist stay as they are.

    Raises:
        Unavailable: the database is away.
    """
    async with database.connection() as connection:
        for table in TABLES:
            for day in (now.date() + timedelta(days=ahead) for ahead in range(DAYS_AHEAD + 1)):
                # "If not exists" looks before it locks: a server that starts at the same time may have been quicker.
                with suppress(asyncpg.DuplicateTableError):
                    await connection.execute(_definition(table, day))


def _definition(table: str, day: date) -> str:
    after = day + timedelta(days=1)
    return (
        f"create table if not exists {table}_{day:%Y%m%d} partition of {table} "
        f"for values from ('{day:%Y-%m-%d} 00:00+00') to ('{after:%Y-%m-%d} 00:00+00')"
    )
