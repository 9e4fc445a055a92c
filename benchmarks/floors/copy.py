"""Floor of submit: COPY of the same rows into a table of the same shape, batch by batch.

`python -m benchmarks.floors.copy DATABASE_URL`; asked with `batches` and `batch`.
"""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from typing import Any

import asyncpg

from benchmarks.floors.answering import Answer, answer_all, timed
from benchmarks.floors.rows import make_tables

_COLUMNS = ("id", "spec_id", "shape_id", "namespace", "priority", "at_most_once", "disconnect_ms", "not_before")


async def work(connection: asyncpg.Connection, question: dict[str, Any]) -> Answer:
    """Copies so many batches of so many rows."""
    batches, batch = question["batches"], question["batch"]
    first = 1 + await connection.fetchval("select coalesce(max(id), 0) from tasks")

    async def copy_all() -> None:
        for number in range(batches):
            ids = range(first + number * batch, first + (number + 1) * batch)
            rows = [(each, number, 1, "default", 0, False, None, None) for each in ids]
            await connection.copy_records_to_table("tasks", records=rows, columns=_COLUMNS)

    return await timed(copy_all())


async def main(url: str) -> None:
    """Answers until stdin ends."""
    connection = await asyncpg.connect(url)
    await make_tables(connection)
    await answer_all(partial(work, connection))
    await connection.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
