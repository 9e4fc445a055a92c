"""Floor of the control plane: rows of tasks are stored, assigned and ended through one connection, and nothing else.

A batch is stored with COPY, then each row of it is written twice, with one statement for all: the three commits that a
task's row has in Styx. There is no timeline, no history of attempts, and nothing that refuses a wrong row.

`python -m benchmarks.floors.copy_and_update DATABASE_URL`; asked with `batches` and `batch`.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime
from typing import Any

import asyncpg

from benchmarks.floors.answering import Answer, timed
from benchmarks.floors.rows import answer_on_tables, copy_tasks

_ASSIGN = """
update tasks set attempt = 1, fence = input.fence, agent_id = input.agent_id, attempt_state = 1, assign_time = now(),
    reason = 'starting'
from unnest($1::bigint[], $2::bigint[], $3::bigint[]) as input (id, fence, agent_id) where tasks.id = input.id
"""
_END = """
update tasks set attempt_state = 5, state = 4, reason = '', exit_code = input.exit_code, start_time = input.time,
    end_time = input.time
from unnest($1::bigint[], $2::int[], $3::timestamptz[]) as input (id, exit_code, time) where tasks.id = input.id
"""


async def work(connection: asyncpg.Connection, question: dict[str, Any]) -> Answer:
    """So many batches of so many tasks, from an empty table."""
    batches, batch = question["batches"], question["batch"]
    await connection.execute("truncate tasks")
    assign, end = await connection.prepare(_ASSIGN), await connection.prepare(_END)

    async def through() -> None:
        for number in range(batches):
            ids = range(1 + number * batch, 1 + (number + 1) * batch)
            await copy_tasks(connection, ids, spec_id=number)
            await assign.fetch(list(ids), list(ids), [1] * batch)
            await end.fetch(list(ids), [0] * batch, [datetime.now(UTC)] * batch)

    return await timed(through())


if __name__ == "__main__":
    asyncio.run(answer_on_tables(sys.argv[1], work))
