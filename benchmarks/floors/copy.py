"""Floor of submit: COPY of the same rows into a table of the same shape, batch by batch.

`python -m benchmarks.floors.copy DATABASE_URL`; asked with `batches` and `batch`.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import asyncpg

from benchmarks.floors.answering import Answer, timed
from benchmarks.floors.rows import answer_on_tables, copy_tasks


async def work(connection: asyncpg.Connection, question: dict[str, Any]) -> Answer:
    """Copies so many batches of so many rows."""
    batches, batch = question["batches"], question["batch"]
    first = 1 + await connection.fetchval("select coalesce(max(id), 0) from tasks")

    async def copy_all() -> None:
        for number in range(batches):
            ids = range(first + number * batch, first + (number + 1) * batch)
            await copy_tasks(connection, ids, spec_id=number)

    return await timed(copy_all())


if __name__ == "__main__":
    asyncio.run(answer_on_tables(sys.argv[1], work))
