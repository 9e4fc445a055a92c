"""Agents leave service: drained, drained with a deadline, removed; and every server learns of it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from styx_server.core.errors import Conflict, NotFound, StyxError, Unauthenticated, WrongState
from styx_server.core.session import Action, StopCause, StopOrder
from styx_server.core.states import AttemptState, OutcomeKind, TaskState
from styx_server.core.task import AgentId, Outcome
from styx_server.loops.retire import Retirer
from styx_server.services.agents import AgentState
from styx_server.services.removal import HowToRemove
from styx_server.services.tasks import Mutation
from tests.support.builders import a_capacity, a_new_task, an_outcome, exited
from tests.support.server import ONCE, FakeAgent, Server, gathered
from tests.support.until import soon, soon_true

RUNNING = AttemptState.RUNNING
AT_ONCE = timedelta(0)
LATER = timedelta(hours=1)
FORCE, LOST = HowToRemove(force=True), HowToRemove(lost=True)


async def drain(server: Server, agent: FakeAgent, deadline: timedelta | None = None, *, undo: bool = False) -> None:
    await server.app.agents.drain(agent.agent_id, ONCE, draining=not undo, deadline=deadline)


async def remove(server: Server, agent: FakeAgent, how: HowToRemove | None = None, mutation: Mutation = ONCE) -> int:
    return await server.app.removal.remove(agent.agent_id, mutation, how or HowToRemove())


async def retire(server: Server) -> None:
    """One pass; the server's own loop makes others."""
    app = server.app
    await Retirer(app.database, app.registry, app.removal, on_stops=app.delivery.look_at).once()


async def silent_for(server: Server, agent: FakeAgent, seconds: int) -> None:
    """As if the last beat had been so long ago."""
    text = "update agent_leases set beat_time = now() - make_interval(secs => $2) where agent_id = $1"
    await server.rows(text, agent.agent_id, seconds)


async def kinds(server: Server, task_id: int) -> list[str]:
    rows = await server.rows("select kind from task_events where task_id = $1 order by seq", task_id)
    return [row["kind"] for row in rows]


# Drain.


async def test_a_drained_agent_gets_no_new_work_and_keeps_what_it_has(server: Server) -> None:
    agent, order = await server.one_running()
    await drain(server, agent)
    (waiting,) = await server.submit()
    await server.settled()
    assert await server.state(waiting) == (TaskState.PENDING, "capacity")
    await retire(server)
    assert (agent.stops, len(agent.assigned)) == ([], 1)
    view = await server.app.agents.get(agent.agent_id)
    assert (view.state, view.attempts, view.task_ids) == (AgentState.DRAINING, 1, (order.task_id,))
    assert view.drain_deadline is None


async def test_a_deadline_that_has_not_come_stops_nothing(server: Server) -> None:
    agent, _ = await server.one_running()
    await drain(server, agent, LATER)
    await retire(server)
    view = await server.app.agents.get(agent.agent_id)
    assert view.drain_deadline is not None
    assert LATER / 2 < view.drain_deadline - server.app.clock.now() <= LATER
    assert agent.stops == []


async def test_at_the_deadline_what_runs_is_preempted_and_runs_elsewhere(server: Server) -> None:
    agent, order = await server.one_running()
    other = await server.agent()
    await drain(server, agent, AT_ONCE)
    await soon(lambda: bool(agent.stops), "an order to stop")
    assert agent.stops[0] == StopOrder(fence=order.fence, cause=StopCause.PREEMPT)
    assert await agent.ends(order, an_outcome(OutcomeKind.PREEMPTED))
    (second,) = await other.takes(1)
    assert (second.task_id, second.attempt) == (order.task_id, 2)
    (row,) = await server.rows("select failures, infra_failures, preemptions, attempt_cause from tasks")
    assert tuple(row) == (0, 0, 1, "preempted")
    await other.runs(second, exited(0))
    assert await server.state(order.task_id) == (TaskState.SUCCEEDED, "")
    assert (await kinds(server, order.task_id))[3] == "preempt_requested"


async def test_preemptions_never_use_up_a_budget(server: Server) -> None:
    (task_id,) = await server.submit()
    await server.rows("update tasks set preemptions = 1000, infra_failures = 5")
    agent, other = await server.agent(), await server.agent()
    await soon(lambda: bool(agent.assigned or other.assigned), "an assignment")
    first, then = (agent, other) if agent.assigned else (other, agent)
    await first.starts(first.assigned[0])
    await drain(server, first, AT_ONCE)
    await soon(lambda: bool(first.stops), "an order to stop")
    assert await first.ends(first.assigned[0], an_outcome(OutcomeKind.PREEMPTED))
    (second,) = await then.takes(1)
    await then.runs(second, exited(0))
    assert await server.state(task_id) == (TaskState.SUCCEEDED, "")


async def test_a_task_that_may_run_only_once_is_lost_at_the_deadline(server: Server) -> None:
    agent, order = await server.one_running(at_most_once=True)
    await server.agent()
    await drain(server, agent, AT_ONCE)
    await soon(lambda: bool(agent.stops), "an order to stop")
    assert await agent.ends(order, an_outcome(OutcomeKind.PREEMPTED))
    assert await server.state(order.task_id) == (TaskState.LOST, "attempt_lost")


async def test_the_order_to_stop_is_repeated_by_beats_and_by_the_next_hello(server: Server) -> None:
    agent, order = await server.one_running()
    wanted = StopOrder(fence=order.fence, cause=StopCause.PREEMPT)
    await drain(server, agent, AT_ONCE)
    await soon(lambda: bool(agent.stops), "an order to stop")
    assert agent.session is not None
    answer = await server.app.sessions.beat(agent.session, [], leaving=False)
    assert answer is not None
    assert answer.stops == [wanted]
    session = await agent.connect(agent.holds(order, RUNNING))
    (verdict,) = agent.welcomes[-1][1]
    assert (verdict.action, verdict.stop) == (Action.STOP, wanted)
    answer = await server.app.sessions.beat(session, [], leaving=False)
    assert answer is not None
    assert answer.stops == [wanted]


async def test_a_deadline_that_came_while_the_agent_was_away_is_kept(server: Server) -> None:
    agent, order = await server.one_running()
    await agent.disconnect()
    await drain(server, agent, AT_ONCE)
    await retire(server)
    await agent.connect(agent.holds(order, RUNNING))
    await soon(lambda: bool(agent.stops), "an order to stop")
    assert agent.stops[0].cause is StopCause.PREEMPT


async def test_the_mark_ends_with_its_attempt(server: Server) -> None:
    agent, order = await server.one_running()
    await drain(server, agent, AT_ONCE)
    await soon(lambda: bool(agent.stops), "an order to stop")
    await agent.ends(order, an_outcome(OutcomeKind.PREEMPTED))
    await drain(server, agent, undo=True)
    second = (await agent.takes(2))[1]
    await agent.starts(second)
    await retire(server)
    assert [stop.fence for stop in agent.stops] == [order.fence]
    (row,) = await server.rows("select stop_cause from live_attempts")
    assert row["stop_cause"] is None


async def test_an_undo_takes_the_deadline_back(server: Server) -> None:
    agent, order = await server.one_running()
    await agent.disconnect()
    await drain(server, agent, AT_ONCE)
    await server.rows("update live_attempts set stop_cause = 2")
    await drain(server, agent, undo=True)
    await agent.connect(agent.holds(order, RUNNING))
    await retire(server)
    (verdict,) = agent.welcomes[-1][1]
    assert (verdict.action, agent.stops) == (Action.CONTINUE, [])
    view = await server.app.agents.get(agent.agent_id)
    assert (view.state, view.drain_deadline) == (AgentState.READY, None)


async def test_a_repeated_drain_changes_nothing_and_another_replaces_the_deadline(server: Server) -> None:
    agent, _ = await server.one_running()
    once = Mutation(token_id=1, method="DrainAgent", request_id="d1", digest=b"d" * 32)
    first = await server.app.agents.drain(agent.agent_id, once, draining=True, deadline=LATER)
    again = await server.app.agents.drain(agent.agent_id, once, draining=True, deadline=LATER)
    assert first.drain_deadline == again.drain_deadline
    await drain(server, agent)
    assert (await server.app.agents.get(agent.agent_id)).drain_deadline is None


async def test_a_cancel_comes_before_a_preemption(server: Server) -> None:
    agent, order = await server.one_running()
    await server.cancel(order.task_id, grace=3.0)
    await drain(server, agent, AT_ONCE)
    await soon_true(lambda: _is_marked(server), "a mark")
    await retire(server)
    assert {stop.cause for stop in agent.stops} == {StopCause.CANCEL}
    await agent.connect(agent.holds(order, RUNNING))
    (verdict,) = agent.welcomes[-1][1]
    assert verdict.stop == StopOrder(fence=order.fence, grace_seconds=3.0)
    assert await agent.ends(order, an_outcome(OutcomeKind.PREEMPTED))
    assert await server.state(order.task_id) == (TaskState.CANCELLED, "cancel_requested")


async def test_a_wish_of_another_server_is_learnt_of_in_the_next_pass(server: Server) -> None:
    agent = await server.agent()
    await server.rows("update agents set draining = true")
    await server.settled()
    await server.age_roster(0)
    (task_id,) = await server.submit()
    await server.becomes(task_id, TaskState.PENDING, "capacity")
    assert agent.assigned == []
    await server.rows("update agents set draining = false")
    await agent.takes(1)


# Remove.


async def test_an_idle_agent_is_removed_and_seen_no_more(server: Server) -> None:
    agent = await server.agent()
    assert await remove(server, agent) == 0
    assert agent.endings == ["AGENT_REMOVED"]
    assert await server.app.agents.page(0, 10) == []
    with pytest.raises(NotFound):
        await server.app.agents.get(agent.agent_id)
    (task_id,) = await server.submit()
    await server.becomes(task_id, TaskState.PENDING, "no_match")


async def test_a_busy_agent_is_not_removed_and_the_answer_says_what_to_do(server: Server) -> None:
    agent, _ = await server.one_running()
    with pytest.raises(WrongState) as caught:
        await remove(server, agent)
    assert caught.value.reason == "AGENT_IN_USE"
    assert f"styx agent drain a{agent.agent_id}" in caught.value.message
    assert agent.endings == []
    assert len(await server.app.agents.page(0, 10)) == 1


async def test_a_removed_agent_gets_no_session_and_is_told_why(server: Server) -> None:
    agent = await server.agent()
    await remove(server, agent)
    with pytest.raises(Unauthenticated) as caught:
        await agent.connect()
    assert caught.value.reason == "AGENT_REMOVED"


async def test_the_database_itself_fences_a_removed_agent(server: Server) -> None:
    agent, order = await server.one_running()
    assert agent.session is not None
    await remove(server, agent, FORCE)
    assert await server.app.sessions.beat(agent.session, [], leaving=False) is None
    assert not await agent.report(order, AttemptState.STOPPING)


async def test_a_removal_on_another_server_ends_the_session_here(server: Server) -> None:
    agent = await server.agent()
    await server.rows("update agents set revoke_time = now()")
    await server.rows("update agent_leases set epoch = epoch + 1")
    await soon(lambda: bool(agent.endings), "the end of its session", seconds=5)
    assert agent.endings == ["AGENT_REMOVED"]
    assert server.app.registry.get(agent.agent_id) is None
    assert agent.session is not None
    assert agent.session.removed.is_set()


async def test_what_a_removed_agent_held_stays_live_until_its_lease_has_run_out(server: Server) -> None:
    agent, order = await server.one_running()
    other = await server.agent()
    assert await remove(server, agent, FORCE) == 1
    await server.settled()
    assert await server.state(order.task_id) == (TaskState.RUNNING, "")
    assert other.assigned == []
    outcome = Outcome(kind=OutcomeKind.LOST)
    await server.app.reports.end_many(agent.agent_id, [(order.task_id, order.fence, outcome)])
    assert (await other.takes(1))[0].task_id == order.task_id


async def test_whoever_vouches_that_a_machine_is_gone_has_its_tasks_run_elsewhere_at_once(server: Server) -> None:
    agent, order = await server.one_running()
    other = await server.agent(capacity=a_capacity(cpus=2))
    await silent_for(server, agent, 60)
    assert await remove(server, agent, LOST) == 1
    (second,) = await other.takes(1)
    assert (second.task_id, second.attempt) == (order.task_id, 2)
    (attempt,) = await server.rows("select outcome, message from attempts")
    assert (attempt["outcome"], "said to be gone" in attempt["message"]) == (OutcomeKind.LOST, True)
    (row,) = await server.rows("select infra_failures from tasks")
    assert row["infra_failures"] == 1


async def test_a_task_that_may_run_only_once_is_lost_with_its_machine(server: Server) -> None:
    agent, order = await server.one_running(at_most_once=True)
    await silent_for(server, agent, 60)
    await remove(server, agent, LOST)
    assert await server.state(order.task_id) == (TaskState.LOST, "attempt_lost")


async def test_an_agent_that_was_just_heard_of_is_not_lost(server: Server) -> None:
    agent, order = await server.one_running()
    with pytest.raises(WrongState) as caught:
        await remove(server, agent, LOST)
    assert caught.value.reason == "AGENT_IN_USE"
    assert await server.state(order.task_id) == (TaskState.RUNNING, "")


async def test_an_agent_that_was_removed_can_be_said_to_be_lost_later(server: Server) -> None:
    agent, order = await server.one_running(disconnect_seconds=None)
    other = await server.agent()
    await remove(server, agent, FORCE)
    with pytest.raises(WrongState):
        await remove(server, agent, LOST)
    await silent_for(server, agent, 60)
    assert await remove(server, agent, LOST) == 1
    assert (await other.takes(1))[0].task_id == order.task_id
    assert await remove(server, agent) == 0


async def test_the_end_of_a_removed_agents_attempt_is_not_undone_by_a_late_word(server: Server) -> None:
    agent, order = await server.one_running()
    await server.agent()
    await silent_for(server, agent, 60)
    await remove(server, agent, LOST)
    assert not await agent.ends(order, exited(0))


async def test_a_repeated_removal_finishes_what_it_began_and_ends_nothing_twice(server: Server) -> None:
    agent, order = await server.one_running()
    once = Mutation(token_id=1, method="RemoveAgent", request_id="r1", digest=b"d" * 32)
    await silent_for(server, agent, 60)
    answers = await gathered([remove(server, agent, LOST, once) for _ in range(3)])
    assert 1 in answers
    assert set(answers) <= {0, 1}
    await remove(server, agent, LOST, once)
    assert (await server.state(order.task_id))[0] is TaskState.PENDING
    assert [row["outcome"] for row in await server.rows("select outcome from attempts")] == [OutcomeKind.LOST]
    other = Mutation(token_id=1, method="RemoveAgent", request_id="r1", digest=b"e" * 32)
    with pytest.raises(Conflict):
        await remove(server, agent, LOST, other)


async def test_an_agent_that_never_was_cannot_be_removed(server: Server) -> None:
    with pytest.raises(NotFound) as caught:
        await remove(server, FakeAgent(server, AgentId(999)))
    assert caught.value.reason == "AGENT_NOT_FOUND"


async def test_removals_and_submissions_at_once_leave_no_contradiction(server: Server) -> None:
    agents = [await server.agent(capacity=a_capacity(cpus=4)) for _ in range(4)]
    ids = await server.submit(*[a_new_task(name=f"n{number}") for number in range(8)])
    answers = await gathered([remove(server, agent) for agent in agents[1:]])
    assert all(answer == 0 or isinstance(answer, StyxError) for answer in answers)
    await server.settled()
    assert len(ids) == 8


async def _is_marked(server: Server) -> bool:
    return bool(await server.rows("select 1 from live_attempts where stop_cause = 2"))
