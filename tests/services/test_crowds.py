"""Many agents at once cost those that are here nothing."""

from __future__ import annotations

from tests.support.postgres import connected
from tests.support.server import Server, gathered, started
from tests.support.until import soon_true


async def test_a_crowd_that_waits_to_open_sessions_leaves_connections_for_beats(server: Server) -> None:
    """Each agent of the crowd is held up inside of the database, with a connection in its hands."""
    there = await server.agent()
    assert there.session is not None
    crowd = [await server.join() for _ in range(40)]
    async with connected(server.address) as holder:
        held = holder.transaction()
        await held.start()
        await holder.execute("select from agent_leases where agent_id <> $1 for update", there.agent_id)
        openings = [started(agent.connect()) for agent in crowd]

        async def are_stuck() -> bool:
            waiting: int = await holder.fetchval("select count(*) from pg_locks where not granted and pid <> 0")
            return waiting >= 8

        await soon_true(are_stuck, "openings wait for their rows")
        assert await server.app.sessions.beat(there.session, [], False) is not None
        await held.rollback()
    assert {type(answer).__name__ for answer in await gathered(openings)} == {"Session"}
