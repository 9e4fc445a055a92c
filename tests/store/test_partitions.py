"""Partitions are made by whoever comes first."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from styx_server.embedded import PostgresAddress
from styx_server.store.database import connect
from styx_server.store.partitions import DAYS_AHEAD, TABLES, make_partitions

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


async def test_servers_that_start_together_make_each_partition_once(database: PostgresAddress) -> None:
    pool = await connect(**database.arguments())
    try:
        await asyncio.gather(*(make_partitions(pool, NOW) for _ in range(8)))
        async with pool.connection() as connection:
            made = await connection.fetchval("select count(*) from pg_class where relname ~ '_2026030[1-9]$'")
    finally:
        await pool.close()
    assert made == len(TABLES) * (DAYS_AHEAD + 1)
