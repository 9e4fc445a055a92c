"""Several servers on one database: one leads, any of them may have the agent's session or the user's call."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing

import pytest

from styx_server.core.session import LogStream
from styx_server.core.states import AttemptState, TaskState
from styx_server.services.log_reading import LogRequest
from tests.support.builders import a_capacity, exited
from tests.support.server import FakeAgent, Server, chunk, log_end, running
from tests.support.until import soon, soon_true

RUNNING = AttemptState.RUNNING


@pytest.fixture
async def pair(server: Server) -> AsyncIterator[tuple[Server, Server]]:
    """The one that leads, and another."""
    async with running(server.address, checked=False) as other:
        await soon(lambda: server.app.bulletin.has_readers, "each knows of the other")
        assert server.app.leadership.leads("scheduler")
        assert not other.app.leadership.leads("scheduler")
        yield server, other


def on(server: Server, agent: FakeAgent) -> FakeAgent:
    """The same agent, to connect to another server."""
    agent.server = server
    return agent


async def test_a_task_runs_on_an_agent_whose_session_is_not_the_leaders(pair: tuple[Server, Server]) -> None:
    leader, other = pair
    agent = await other.agent()
    (task_id,) = await leader.submit()
    (order,) = await agent.takes(1)
    await agent.runs(order, exited(0))
    await leader.becomes(task_id, TaskState.SUCCEEDED)


async def test_what_is_submitted_elsewhere_is_placed_and_its_end_frees_the_machine(pair: tuple[Server, Server]) -> None:
    leader, other = pair
    agent = await other.agent(capacity=a_capacity(cpus=1))
    ids = [await other.submit() for _ in range(3)]
    for number, (task_id,) in enumerate(ids):
        order = (await agent.takes(number + 1))[number]
        assert order.task_id == task_id
        await agent.runs(order, exited(0))
    await leader.becomes(ids[-1][0], TaskState.SUCCEEDED)


async def test_a_cancel_reaches_the_agent_through_the_server_that_has_its_session(pair: tuple[Server, Server]) -> None:
    leader, other = pair
    agent = await leader.agent()
    (task_id,) = await other.submit()
    (order,) = await agent.takes(1)
    await agent.starts(order)
    assert await other.cancel(task_id) == [TaskState.CANCELLING]
    await soon(lambda: [stop.fence for stop in agent.stops] == [order.fence], "the order to stop")


async def test_orders_arrive_without_any_note(pair: tuple[Server, Server]) -> None:
    leader, other = pair
    leader.app.bulletin.has_readers = other.app.bulletin.has_readers = False
    leader.app.leadership._on_replicas = other.app.leadership._on_replicas = lambda _numbers: None
    agent = await other.agent()
    (task_id,) = await other.submit()
    (order,) = await agent.takes(1)
    await agent.starts(order)
    await leader.cancel(task_id)
    await soon(lambda: bool(agent.stops), "the order to stop")


async def test_a_session_that_moved_ends_on_its_old_server(pair: tuple[Server, Server]) -> None:
    leader, other = pair
    agent = await leader.agent()
    await leader.submit()
    (order,) = await agent.takes(1)
    await agent.starts(order)
    await on(other, agent).connect(agent.holds(order, RUNNING))
    await soon(lambda: bool(agent.endings), "the old stream is told")
    await agent.runs(order, exited(0))
    await leader.becomes(order.task_id, TaskState.SUCCEEDED)


async def test_a_follower_on_one_server_sees_what_another_takes_in(pair: tuple[Server, Server]) -> None:
    leader, other = pair
    agent = await leader.agent()
    (task_id,) = await other.submit()
    (order,) = await agent.takes(1)
    await agent.starts(order)
    request = LogRequest(task_id=task_id, streams=(LogStream.STDOUT,), follow=True)
    seen = b""
    async with aclosing(other.app.logs.read(request)) as pieces:
        await agent.writes(order, chunk(0, b"one\n"))
        seen += (await anext(pieces)).data
        await soon(lambda: [order.fence] in agent.interests, "the agent hears that somebody looks")
        await agent.writes(order, chunk(4, b"two\n"))
        seen += (await anext(pieces)).data
        await agent.ends(order, exited(0), [log_end(b"one\ntwo\n")])
        async for piece in pieces:
            seen += piece.data
    assert seen == b"one\ntwo\n"


async def test_output_goes_on_where_another_server_left_it_and_back(pair: tuple[Server, Server]) -> None:
    leader, other = pair
    agent = await leader.agent()
    await leader.submit()
    (order,) = await agent.takes(1)
    await agent.starts(order)
    assert (await agent.writes(order, chunk(0, b"one\n"))).end == 4
    await on(other, agent).connect(agent.holds(order, RUNNING))
    assert (await agent.writes(order, chunk(4, b"two\n"))).end == 8
    await on(leader, agent).connect(agent.holds(order, RUNNING))
    found = await agent.writes(order, chunk(8, b"three\n"))
    assert (found.end, found.rewind) == (14, False)
    await agent.ends(order, exited(0), [log_end(b"one\ntwo\nthree\n")])


async def test_a_leader_that_stops_is_followed_at_once(server: Server) -> None:
    async with AsyncExitStack() as first:
        leader = await first.enter_async_context(running(server.address, checked=False))
        assert not leader.app.leadership.leads("scheduler")
        await server.app.leave()
        await soon(lambda: leader.app.leadership.leads("scheduler"), "another leads")
        agent = await server.agent()
        (task_id,) = await server.submit()
        await agent.runs((await agent.takes(1))[0], exited(0))
        await server.becomes(task_id, TaskState.SUCCEEDED)


async def test_a_leader_that_dies_is_followed_and_its_sessions_are_not_open_any_more(server: Server) -> None:
    async with AsyncExitStack() as life:
        doomed = await life.enter_async_context(running(server.address, checked=False))
        await server.app.leave()
        await soon(lambda: doomed.app.leadership.leads("scheduler"), "the second leads")
        await doomed.agent()
        async with running(server.address, checked=False) as third:
            await life.aclose()
            await soon(lambda: third.app.leadership.leads("scheduler"), "the third leads")

            async def is_closed() -> bool:
                return not (await server.rows("select connected from agent_leases"))[0]["connected"]

            await soon_true(is_closed, "its session is not open")


async def test_a_task_that_was_cancelled_elsewhere_is_not_placed_and_holds_up_nobody(
    pair: tuple[Server, Server],
) -> None:
    leader, other = pair
    (cancelled,) = await other.submit()
    await soon(lambda: leader.app.scheduling.waiting == 1, "the leader knows of it")
    assert await other.cancel(cancelled) == [TaskState.CANCELLED]
    (following,) = await other.submit()
    agent = await leader.agent(capacity=a_capacity(cpus=1))
    (order,) = await agent.takes(1)
    assert order.task_id == following


async def test_a_server_that_does_not_lead_remembers_nothing(pair: tuple[Server, Server]) -> None:
    leader, other = pair
    agent = await other.agent()
    (task_id,) = await other.submit()
    await agent.runs((await agent.takes(1))[0], exited(0))
    await leader.becomes(task_id, TaskState.SUCCEEDED)
    assert other.app.scheduling.waiting == 0
    assert other.app.ledger.fleet.agents == {}
    assert other.app.scheduling._roster._over == set()


async def test_what_others_submit_is_placed_while_somebody_holds_a_transaction_open(
    pair: tuple[Server, Server],
) -> None:
    leader, other = pair
    agent = await other.agent()
    async with leader.database.connection() as connection, connection.transaction():
        # It has a number of its own now, below which every reader of the feed has to stay.
        await connection.execute("select pg_current_xact_id()")
        (task_id,) = await other.submit()
        await agent.runs((await agent.takes(1))[0], exited(0))
        await leader.becomes(task_id, TaskState.SUCCEEDED)
