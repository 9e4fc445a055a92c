"""The rows of the floors: made as `tables.sql` says, written as plainly as SQL can."""

from __future__ import annotations

from pathlib import Path

import asyncpg

_TABLES = Path(__file__).with_name("tables.sql")

INSERT = "insert into tasks (id, spec_id, shape_id, namespace) values (nextval('task_ids'), $1, 1, 'default')"
"""One task, as it is submitted."""
INSERT_RETURNING = f"{INSERT} returning id"
START = "update tasks set state = 2, attempt_state = 3, start_time = now() where id = $1"
END = "update tasks set state = 4, attempt_state = 5, end_time = now(), exit_code = 0 where id = $1"


async def make_tables(connection: asyncpg.Connection) -> None:
    """In a database that has none."""
    await connection.execute(_TABLES.read_text())
