"""The database goes away, or its answer is lost: nothing is forgotten, nothing is done twice, and it says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from styx_server.core.errors import Unavailable
from styx_server.core.states import AttemptState, TaskState
from styx_server.core.task import RetryPolicy
from styx_server.services.log_intake import Stored
from tests.support.builders import a_capacity, a_new_task, exited
from tests.support.postgres import connected
from tests.support.server import ONCE, FakeAgent, Server, chunk, gathered, log_end, running, started
from tests.support.until import soon


@asynccontextmanager
async def no_database(server: Server) -> AsyncIterator[None]:
    """Every connection is ended, and no new one is let in."""
    name = server.address.database
    async with connected(server.address.with_database("postgres")) as other:
        await other.execute(f"alter database {name} allow_connections false")
        await other.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = $1", name)
        try:
            yield
        finally:
            await other.execute(f"alter database {name} allow_connections true")


async def cut(server: Server) -> None:
    """Every connection is ended once."""
    async with no_database(server):
        pass


async def test_submit_says_try_again_and_then_works(server: Server) -> None:
    async with no_database(server):
        for _ in range(3):
            with pytest.raises(Unavailable):
                await server.submit(request_id="r1")
        assert any("database_unavailable" in reason for reason in await server.app.health.reasons())
    (task_id,) = await server.submit(request_id="r1")
    assert await server.app.health.reasons() == []
    assert await server.submit(request_id="r1") == [task_id]


async def test_reports_wait_for_the_database_and_are_stored_when_it_is_back(server: Server) -> None:
    agent, order = await server.one_running()
    async with no_database(server):
        end = started(agent.ends(order, exited(0)))
        await soon(lambda: any(line["event"] == "flush_postponed" for line in server.lines), "a postponed flush")
        assert not end.done()
    assert await asyncio.wait_for(end, 20)
    assert await server.state(order.task_id) == (TaskState.SUCCEEDED, "")


async def test_output_and_beats_wait_too(server: Server) -> None:
    agent, order = await server.one_running()
    assert agent.session is not None
    async with no_database(server):
        write = started(agent.writes(order, chunk(0, b"kept")))
        beat = started(server.app.sessions.beat(agent.session, [], False))
        await soon(
            lambda: sum(line["event"] == "flush_postponed" for line in server.lines) >= 2, "two postponed flushes"
        )
        assert not write.done()
        assert not beat.done()
    assert await asyncio.wait_for(write, 20) == Stored(end=4, rewind=False)
    assert await asyncio.wait_for(beat, 20) is not None
    assert await agent.ends(order, exited(0), [log_end(b"kept")])


async def test_scheduling_goes_on_after_the_connections_were_cut(server: Server) -> None:
    agent = await server.agent()
    await cut(server)
    ids = await submitted(server, 3)
    orders = await agent.takes(3)
    assert sorted(order.task_id for order in orders) == ids


async def test_a_submission_whose_answer_was_lost_is_there_and_runs(server: Server) -> None:
    agent = await server.agent()
    server.database.lose_answer("submit_tasks")
    with pytest.raises(Unavailable):
        await server.submit(request_id="r1")
    (order,) = await agent.takes(1)
    assert await server.submit(request_id="r1") == [order.task_id]
    await agent.runs(order, exited(0))
    assert len(agent.assigned) == 1


async def test_a_submission_to_a_new_namespace_whose_answer_was_lost_runs_too(server: Server) -> None:
    agent = await server.agent()
    server.database.lose_answer("submit_tasks")
    with pytest.raises(Unavailable):
        await server.submit(namespace="fresh")
    (order,) = await agent.takes(1)
    assert order.namespace == "fresh"


async def test_an_assignment_whose_answer_was_lost_is_sent_all_the_same_and_once(server: Server) -> None:
    agent = await server.agent(capacity=a_capacity(cpus=1))
    server.database.lose_answer("assign_tasks")
    (task_id,) = await server.submit()
    (order,) = await agent.takes(1)
    assert (order.task_id, order.attempt) == (task_id, 1)
    await agent.runs(order, exited(0))
    assert await server.state(task_id) == (TaskState.SUCCEEDED, "")
    await server.settled()
    (other,) = await server.submit()
    assert (await agent.takes(2))[1].task_id == other


async def test_an_assignment_that_did_not_reach_the_database_is_tried_again(server: Server) -> None:
    agent = await server.agent()
    with server.database.held("assign_tasks") as gate:
        (task_id,) = await server.submit()
        await gate.reached.wait()
        async with no_database(server):
            gate.open.set()
            await soon(lambda: any(line["event"] == "loop_postponed" for line in server.lines), "a postponed round")
    (order,) = await agent.takes(1)
    assert order.task_id == task_id
    await agent.runs(order, exited(0))


async def test_an_end_whose_answer_was_lost_is_stored_once_and_frees_its_machine(server: Server) -> None:
    agent = await server.agent(capacity=a_capacity(cpus=1))
    (task_id,) = await server.submit()
    (order,) = await agent.takes(1)
    await agent.starts(order)
    server.database.lose_answer("end_attempts")
    assert await agent.ends(order, exited(0))
    assert await server.state(task_id) == (TaskState.SUCCEEDED, "")
    (following,) = await server.submit()
    assert (await agent.takes(2))[1].task_id == following


async def test_a_retry_that_follows_an_end_whose_answer_was_lost_comes_all_the_same(server: Server) -> None:
    agent, order = await server.one_running(retry=RetryPolicy(max_retries=1, backoff_seconds=0))
    server.database.lose_answer("end_attempts")
    assert await agent.ends(order, exited(1))
    second = (await agent.takes(2))[1]
    assert (second.task_id, second.attempt) == (order.task_id, 2)


async def test_a_start_whose_answer_was_lost_is_stored_once(server: Server) -> None:
    agent = await server.agent()
    await server.submit()
    (order,) = await agent.takes(1)
    server.database.lose_answer("start_attempts")
    await agent.starts(order)
    details = await server.app.tasks.get(order.task_id)
    assert [event.kind for event in details.timeline] == ["submitted", "assigned", "started"]


async def test_an_order_to_stop_whose_answer_was_lost_reaches_the_agent(server: Server) -> None:
    agent, order = await server.one_running()
    server.database.lose_answer("cancel_live")
    with pytest.raises(Unavailable):
        await server.cancel(order.task_id)
    assert await server.state(order.task_id) == (TaskState.CANCELLING, "cancel_requested")
    await soon(lambda: [stop.fence for stop in agent.stops] == [order.fence], "the order to stop")


async def test_a_retry_on_a_persons_word_whose_answer_was_lost_runs(server: Server) -> None:
    agent, order = await server.one_running()
    await agent.ends(order, exited(1))
    server.database.lose_answer("reopen_task")
    with pytest.raises(Unavailable):
        await server.app.tasks.retry(order.task_id, ONCE)
    assert (await agent.takes(2))[1].attempt == 2


async def test_a_hello_that_fails_midway_leaves_no_session_and_the_next_one_works(server: Server) -> None:
    agent, order = await server.one_running()
    server.database.lose_answer("read_held")
    with pytest.raises(Unavailable):
        await agent.connect(agent.holds(order, AttemptState.RUNNING))
    assert server.app.registry.get(agent.agent_id) is None
    await agent.connect(agent.holds(order, AttemptState.RUNNING))
    assert await agent.ends(order, exited(0))


async def test_a_hello_whose_epoch_was_lost_leaves_the_work_to_the_next_session(server: Server) -> None:
    agent = await server.agent()
    server.database.lose_answer("open_session")
    with pytest.raises(Unavailable):
        await agent.connect()
    (task_id,) = await server.submit()
    await agent.connect()
    await soon(lambda: any(order.task_id == task_id for order in agent.assigned), "the assignment")


async def test_a_value_that_no_column_takes_is_a_bug_and_not_an_outage(server: Server) -> None:
    for value in (2**63, "text", object()):
        with pytest.raises(asyncpg.DataError, match="invalid input for query argument"):
            await server.database.fetch("get_status", id=value)


async def test_one_report_that_cannot_be_stored_does_not_stop_the_others(server: Server) -> None:
    server.expected.add("flush_failed")
    agent = await server.agent()
    await server.submit(*[a_new_task()] * 2)
    good, bad = await agent.takes(2)
    await agent.starts(good)
    await agent.starts(bad)
    answers = await gathered([agent.ends(bad, exited(0, cpu_seconds=1e300)), agent.ends(good, exited(0))])
    assert answers[1] is True
    assert isinstance(answers[0], Exception)
    assert await agent.ends(bad, exited(0))


async def test_a_server_that_starts_anew_takes_up_what_was_waiting_and_running(server: Server) -> None:
    agent, order = await server.one_running()
    await agent.disconnect()
    ids = await server.submit(*[a_new_task()] * 3)
    async with running(server.address, checked=False) as second:
        again = FakeAgent(second, agent.agent_id)
        await again.connect(again.holds(order, AttemptState.RUNNING))
        orders = await again.takes(3)
        assert [item.task_id for item in orders] == ids
        assert await again.ends(order, exited(0))
        for item in orders:
            await again.runs(item, exited(0))
        assert {(await second.state(task_id))[0] for task_id in (*ids, order.task_id)} == {TaskState.SUCCEEDED}


async def test_a_leader_that_was_replaced_assigns_nothing(server: Server) -> None:
    agent = await server.agent()
    with server.database.held("assign_tasks") as gate:
        (task_id,) = await server.submit()
        await gate.reached.wait()
        await server.rows("update leaders set term = term + 1, replica_id = gen_random_uuid() where name = 'scheduler'")
    await soon(lambda: any(line["event"] == "placements_refused" for line in server.lines), "a refused placement")
    assert agent.assigned == []
    assert (await server.state(task_id))[0] is TaskState.PENDING
    # The one that replaced it gives no sign of life, so it leads again.
    await agent.takes(1)


async def submitted(server: Server, count: int) -> list[int]:
    """Submits as a client does: again until it works."""
    ids = []
    for number in range(count):
        for _ in range(50):
            try:
                ids += await server.submit(request_id=f"r{number}")
                break
            except Unavailable:
                await asyncio.sleep(0.05)
    return sorted(ids)
