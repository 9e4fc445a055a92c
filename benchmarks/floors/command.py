"""Floor of latency and of the first line: a process, and as many single-row commits as a task cannot do without.

`python -m benchmarks.floors.command DATABASE_URL`; asked with `argv` and `until`: `end` waits for the end of the
process and commits three times (submitted, started, ended), `line` commits once and waits for a line of its output.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import asyncpg

from benchmarks.floors.answering import Answer, timed
from benchmarks.floors.rows import END, INSERT, INSERT_RETURNING, START, answer_on_tables

_NOWHERE = asyncio.subprocess.DEVNULL


async def work(connection: asyncpg.Connection, question: dict[str, Any]) -> Answer:
    """One command."""
    if question["until"] == "end":
        return await timed(_to_the_end(connection, question["argv"]))
    return await timed(_to_the_line(connection, question["argv"]))


async def _to_the_end(connection: asyncpg.Connection, argv: list[str]) -> None:
    task_id = await connection.fetchval(INSERT_RETURNING, 1)
    process = await asyncio.create_subprocess_exec(*argv, stdin=_NOWHERE, stdout=_NOWHERE, stderr=_NOWHERE)
    await connection.execute(START, task_id)
    await process.wait()
    await connection.execute(END, task_id)


async def _to_the_line(connection: asyncpg.Connection, argv: list[str]) -> None:
    await connection.execute(INSERT, 1)
    process = await asyncio.create_subprocess_exec(
        *argv, stdin=_NOWHERE, stdout=asyncio.subprocess.PIPE, stderr=_NOWHERE
    )
    assert process.stdout is not None
    await process.stdout.readline()


if __name__ == "__main__":
    asyncio.run(answer_on_tables(sys.argv[1], work))
