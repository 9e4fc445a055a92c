"""Orders to start reach the session of their agent once, whatever crosses them on the way."""

from __future__ import annotations

from dataclasses import replace

from styx_server.core.states import OutcomeKind, TaskState
from styx_server.core.task import Outcome
from tests.support.builders import a_capacity, a_new_task, exited, some_gpus
from tests.support.server import Server, gathered
from tests.support.until import soon_true


async def test_an_assignment_that_did_not_arrive_is_sent_again_through_the_next_session(server: Server) -> None:
    agent = await server.agent()
    await server.submit()
    await agent.takes(1)
    await agent.connect()
    first, second = await agent.takes(2)
    assert first == second
    await agent.runs(second, exited(0))


async def test_an_assignment_that_commits_around_a_hello_is_sent_once_and_to_the_new_session(server: Server) -> None:
    agent = await server.agent(capacity=a_capacity(cpus=1, gpus=some_gpus("A100")))
    with server.database.held("assign_tasks", answered=True) as gate:
        need = replace(a_new_task().shape.resources, gpu_count=1)
        (task_id,) = await server.submit(a_new_task(resources=need))
        await gate.reached.wait()
        # It is stored, the leader does not know it yet, and the agent says that it holds nothing.
        await agent.connect()
        (order,) = await agent.takes(1)
        assert (order.task_id, order.attempt) == (task_id, 1)
        await agent.runs(order, exited(0))
    # The leader hears of the commit when the attempt is over already: a second order would run it again.
    await server.settled()
    assert agent.assigned == [order]
    await server.becomes(task_id, TaskState.SUCCEEDED)
    await server.settled()


async def test_an_assignment_that_commits_when_the_agent_is_gone_waits_for_its_return(server: Server) -> None:
    agent = await server.agent()
    with server.database.held("assign_tasks", answered=True) as gate:
        (task_id,) = await server.submit()
        await gate.reached.wait()
        await agent.disconnect()
    await server.settled()
    assert agent.assigned == []
    await agent.connect()
    (order,) = await agent.takes(1)
    assert (order.task_id, order.attempt) == (task_id, 1)
    await agent.runs(order, exited(0))


async def test_an_order_that_was_withdrawn_is_not_sent_when_its_answer_comes(server: Server) -> None:
    agent = await server.agent()
    with server.database.held("assign_tasks", answered=True) as gate:
        await server.submit()
        await gate.reached.wait()
        await server.rows("update live_attempts set stop_cause = 2")
        server.app.delivery.look_at([agent.agent_id])

        async def is_over() -> bool:
            return bool(await server.rows("select from attempts"))

        await soon_true(is_over, "the first attempt is withdrawn")
    (order,) = await agent.takes(1)
    assert order.attempt == 2
    await agent.runs(order, exited(0))


async def test_what_rests_on_an_old_lease_does_not_stand_before_what_rests_on_none(server: Server) -> None:
    agent, order = await server.one_running()
    ends = [
        server.app.reports.end_many(agent.agent_id, [(order.task_id, order.fence, Outcome(kind=kind))], lease_seq=seq)
        for kind, seq in ((OutcomeKind.SUPERVISOR_LOST, None), (OutcomeKind.LOST, -1))
    ]
    await gathered(ends)
    (attempt,) = await server.rows("select outcome from attempts")
    assert attempt["outcome"] == OutcomeKind.SUPERVISOR_LOST


async def test_a_task_cancelled_while_its_assignment_is_in_flight_is_not_sent(server: Server) -> None:
    agent = await server.agent()
    with server.database.held("assign_tasks") as gate:
        (task_id,) = await server.submit()
        await gate.reached.wait()
        assert await server.cancel(task_id) == [TaskState.CANCELLED]
    (following,) = await server.submit()
    (order,) = await agent.takes(1)
    assert order.task_id == following
