"""The rows of the floors: made as `tables.sql` says, written as plainly as SQL can."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg

from benchmarks.floors.answering import Answer, answer_all

_TABLES = Path(__file__).with_name("tables.sql")

INSERT = "insert into tasks (id, spec_id, shape_id, namespace) values (nextval('task_ids'), $1, 1, 'default')"
"""One task, as it is submitted."""
INSERT_RETURNING = f"{INSERT} returning id"
START = "update tasks set state = 2, attempt_state = 3, start_time = now() where id = $1"
_COLUMNS = ("id", "spec_id", "shape_id", "namespace", "priority", "at_most_once", "disconnect_ms", "not_before")
END = "update tasks set state = 4, attempt_state = 5, end_time = now(), exit_code = 0 where id = $1"


async def make_tables(connection: asyncpg.Connection) -> None:
    """In a database that has none."""
    await connection.execute(_TABLES.read_text())


async def copy_tasks(connection: asyncpg.Connection, ids: range, *, spec_id: int) -> None:
    """A batch of tasks, as they are submitted."""
    rows = [(each, spec_id, 1, "default", 0, False, None, None) for each in ids]
    await connection.copy_records_to_table("tasks", records=rows, columns=_COLUMNS)


async def answer_on_tables(url: str, work: Callable[[asyncpg.Connection, dict[str, Any]], Awaitable[Answer]]) -> None:
    """The main program of a floor that works on these rows: answers until stdin ends."""
    connection = await asyncpg.connect(url)
    await make_tables(connection)
    await answer_all(partial(work, connection))
    await connection.close()
