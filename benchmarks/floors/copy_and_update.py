"""Floor of the control plane: rows of tasks are stored, assigned and ended through one connection, and nothing else.

The table has the columns of Styx's own and a primary key, without its other index, checks, triggers, timeline and
attempts. A batch is stored with COPY, then each row of it is written twice with one statement for all: the three
commits that a task's row has in Styx.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from itertools import count
from typing import Any

import asyncpg

from benchmarks.floors.answering import Answer, answer_all, timed
from styx_server.store.database import migrate_database

_TABLE = """
drop table if exists floor;
create table floor (like tasks including defaults including storage, primary key (id)) with (fillfactor = 70);
"""
_COLUMNS = ["id", "spec_id", "shape_id", "namespace", "priority", "at_most_once", "reason", "message"]
_ASSIGN = """
update floor set attempt = 1, fence = input.fence, agent_id = input.agent_id, attempt_state = 1, assign_time = now(),
    reason = 'starting'
from unnest($1::bigint[], $2::bigint[], $3::bigint[]) as input (id, fence, agent_id) where floor.id = input.id
"""
_END = """
update floor set attempt_state = 5, state = 4, reason = '', exit_code = input.exit_code, start_time = input.time,
    end_time = input.time
from unnest($1::bigint[], $2::int[], $3::timestamptz[]) as input (id, exit_code, time) where floor.id = input.id
"""


async def main(url: str) -> None:
    """Answers questions: `count` tasks in batches of `batch`."""
    await migrate_database(dsn=url)
    connection = await asyncpg.connect(url)
    ids = count(1)

    async def work(question: dict[str, Any]) -> Answer:
        await connection.execute(_TABLE)
        batches = [[next(ids) for _ in range(question["batch"])] for _ in range(question["count"] // question["batch"])]
        return await timed(_all(connection, batches))

    await answer_all(work)


async def _all(connection: asyncpg.Connection, batches: list[list[int]]) -> None:
    assign, end = await connection.prepare(_ASSIGN), await connection.prepare(_END)
    for ids in batches:
        now = datetime.now(UTC)
        rows = [(task_id, 1, 1, "default", 0, False, "", "") for task_id in ids]
        await connection.copy_records_to_table("floor", columns=_COLUMNS, records=rows)
        await assign.fetch(ids, ids, [1] * len(ids))
        await end.fetch(ids, [0] * len(ids), [now] * len(ids))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
