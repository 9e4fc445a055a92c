"""A database that goes back in time: what docs/operations.md says of it is so, with the statements that it gives."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from styx_server.core.session import Action
from styx_server.core.states import AttemptState, OutcomeKind, TaskState
from styx_server.embedded import PostgresAddress
from tests.support.builders import exited
from tests.support.postgres import DatabaseFactory, connected
from tests.support.server import FakeAgent, Server, running

OPERATIONS = Path(__file__).resolve().parents[2] / "docs" / "operations.md"
RUNNING = AttemptState.RUNNING


@asynccontextmanager
async def a_copy_of(database: PostgresAddress) -> AsyncIterator[PostgresAddress]:
    """The backup; nobody may be connected to the original."""
    name = f"{database.database}_backup"
    async with connected(database.with_database("postgres")) as connection:
        await connection.execute(f"create database {name} template {database.database}")
    try:
        yield database.with_database(name)
    finally:
        async with connected(database.with_database("postgres")) as connection:
            await connection.execute(f"drop database {name} with (force)")


def seen_by(agent: FakeAgent, server: Server) -> FakeAgent:
    """The same agent at another server: what it remembers goes with it."""
    assert agent.session is not None
    return FakeAgent(server, agent.agent_id, last_epoch=agent.session.epoch)


async def test_what_was_done_after_the_backup_is_taken_back_and_no_number_comes_twice(
    databases_with_schema: DatabaseFactory,
) -> None:
    async with databases_with_schema.fresh() as original:
        async with running(original) as server:
            agent, first = await server.one_running()
        async with a_copy_of(original) as backup:
            async with running(original) as server:
                agent = seen_by(agent, server)
                await agent.connect(agent.holds(first, RUNNING))
                assert await agent.ends(first, exited(0))
                await server.submit()
                (unknown,) = await agent.takes(1)
                await agent.starts(unknown)
            await restored(backup)
            async with running(backup) as server:
                agent = seen_by(agent, server)
                session = await agent.connect(agent.holds(unknown, RUNNING))
                assert session.epoch > agent.last_epoch
                (verdict,) = agent.welcomes[-1][1]
                assert (verdict.fence, verdict.action) == (unknown.fence, Action.FORGET)
                (again,) = await agent.takes(1)
                assert (again.task_id, again.attempt, again.fence > unknown.fence) == (first.task_id, 2, True)
                (attempt,) = await server.rows("select outcome from attempts")
                assert attempt["outcome"] == OutcomeKind.SUPERVISOR_LOST
                await agent.runs(again, exited(0))
                assert await server.state(first.task_id) == (TaskState.SUCCEEDED, "")
                (new,) = await server.submit()
                assert new > unknown.task_id


async def restored(database: PostgresAddress) -> None:
    """What the page says is to be done before the first server starts."""
    (statements,) = re.findall(r"```sql\n(.*?)```", OPERATIONS.read_text(), re.DOTALL)
    connection = await asyncpg.connect(**database.arguments())
    await connection.execute(statements)
    await connection.close()
