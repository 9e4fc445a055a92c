"""Sessions are never repaired, only replaced: what a Hello finds, what a beat proves, and races with assignments."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from styx_server.core.errors import NotFound, Superseded
from styx_server.core.session import Action, AttemptReport, LogStream, StopCause
from styx_server.core.states import AttemptState, OutcomeKind, TaskState
from styx_server.core.task import AgentId, Fence, Outcome, Resources
from styx_server.services.agents import AgentState
from styx_server.services.interest import Followed
from styx_server.services.tasks import Mutation
from tests.support.builders import a_capacity, a_new_task, exited, some_gpus
from tests.support.server import ONCE, FakeAgent, Server, chunk, gathered, log_end, started
from tests.support.until import soon

ASSIGNED, RUNNING, ENDED = AttemptState.ASSIGNED, AttemptState.RUNNING, AttemptState.ENDED


async def test_every_session_has_a_larger_epoch_than_all_before(server: Server) -> None:
    agent = await server.join()
    epochs = [(await agent.connect()).epoch for _ in range(3)]
    agent.last_epoch = 100
    epochs.append((await agent.connect()).epoch)
    assert epochs == [1, 2, 3, 101]
    # A delivery that looks in between may have said it to one of them before.
    assert len(agent.endings) >= 3
    assert all(reason.startswith("a newer session of this agent took over") for reason in agent.endings)


async def test_an_agent_that_does_not_exist_gets_no_session(server: Server) -> None:
    with pytest.raises(NotFound):
        await FakeAgent(server, AgentId(999)).connect()


async def test_nothing_is_concluded_from_a_hello_before_its_agent_beats(server: Server) -> None:
    agent, order = await server.one_running()
    late = await server.app.sessions.open(agent.hello(), FakeAgent(server, agent.agent_id))
    await server.settled()
    assert await server.rows("select * from attempts") == []
    await server.app.sessions.beat(late, [], False)
    (attempt,) = await server.rows("select * from attempts")
    assert (attempt["fence"], attempt["outcome"]) == (order.fence, OutcomeKind.SUPERVISOR_LOST)


@pytest.mark.parametrize(
    ("boot_id", "kind"), [("boot-1", OutcomeKind.SUPERVISOR_LOST), ("boot-2", OutcomeKind.HOST_REBOOTED)]
)
async def test_a_running_attempt_that_the_agent_does_not_know_is_lost(
    server: Server, boot_id: str, kind: OutcomeKind
) -> None:
    agent, order = await server.one_running()
    agent.boot_id = boot_id
    await agent.connect()
    (attempt,) = await server.rows("select * from attempts")
    assert (attempt["fence"], attempt["outcome"]) == (order.fence, kind)
    second = (await agent.takes(2))[1]
    await agent.runs(second, exited(0))
    await server.becomes(order.task_id, TaskState.SUCCEEDED)


async def test_a_held_attempt_goes_on_under_the_new_session(server: Server) -> None:
    agent, order = await server.one_running()
    await agent.writes(order, chunk(0, b"12345"))
    await agent.connect(agent.holds(order, RUNNING))
    (verdict,) = agent.welcomes[-1][1]
    assert (verdict.action, verdict.start_acked, verdict.end_acked) == (Action.CONTINUE, True, False)
    assert verdict.logs == ((LogStream.STDOUT, 5),)
    assert await agent.ends(order, exited(0))
    assert len(agent.assigned) == 1


async def test_a_held_attempt_whose_start_was_never_stored_is_not_acked(server: Server) -> None:
    agent = await server.agent()
    await server.submit()
    (order,) = await agent.takes(1)
    await agent.connect(agent.holds(order, RUNNING))
    (verdict,) = agent.welcomes[-1][1]
    assert (verdict.action, verdict.start_acked) == (Action.CONTINUE, False)
    await agent.starts(order)


async def test_an_end_that_was_not_acked_is_taken_from_the_hello(server: Server) -> None:
    agent, order = await server.one_running()
    await agent.writes(order, chunk(0, b"out"))
    report = AttemptReport(
        fence=order.fence,
        task_id=order.task_id,
        state=ENDED,
        end_time=server.app.clock.now(),
        outcome=exited(4),
        logs=(log_end(b"out"),),
    )
    await agent.connect(agent.holds(order, ENDED, report))
    assert await server.state(order.task_id) == (TaskState.FAILED, "exit_code")
    (verdict,) = agent.welcomes[-1][1]
    assert (verdict.action, verdict.end_acked) == (Action.CONTINUE, True)
    await agent.connect(agent.holds(order, ENDED, report))
    assert len(await server.rows("select 1 from attempts")) == 1


async def test_what_was_never_the_agents_is_to_be_forgotten(server: Server) -> None:
    agent, order = await server.one_running()
    stranger = await server.join()
    await stranger.connect(stranger.holds(order, RUNNING), stranger.holds(replace(order, fence=Fence(10**6)), RUNNING))
    assert [verdict.action for verdict in stranger.welcomes[-1][1]] == [Action.FORGET, Action.FORGET]
    assert await server.state(order.task_id) == (TaskState.RUNNING, "")
    assert await agent.ends(order, exited(0))


async def test_a_hello_cannot_turn_its_own_fence_into_a_claim_on_another_task(server: Server) -> None:
    other, others = await server.one_running()
    agent = await server.agent(capacity=a_capacity(gpus=some_gpus("A100")))
    await server.submit(resources=Resources(gpu_count=1))
    (order,) = await agent.takes(1)
    assert other.agent_id != agent.agent_id
    claim = replace(agent.holds(order, RUNNING), task_id=others.task_id, attempt=7)
    session = await agent.connect(claim)
    assert {(known.task_id, known.attempt) for known in session.known.values()} <= {(order.task_id, 1)}


async def test_a_cancel_while_the_agent_is_away_reaches_it_with_the_next_session(server: Server) -> None:
    agent, order = await server.one_running()
    await agent.disconnect()
    assert await server.cancel(order.task_id, grace=1.5) == [TaskState.CANCELLING]
    session = await agent.connect(agent.holds(order, RUNNING))
    (verdict,) = agent.welcomes[-1][1]
    assert verdict.action is Action.STOP
    assert verdict.stop is not None
    assert (verdict.stop.cause, verdict.stop.grace_seconds) == (StopCause.CANCEL, 1.5)
    answer = await server.app.sessions.beat(session, [], False)
    assert answer is not None
    assert [stop.fence for stop in answer.stops] == [order.fence]
    assert await agent.ends(order, Outcome(kind=OutcomeKind.CANCELLED))
    assert await server.state(order.task_id) == (TaskState.CANCELLED, "cancel_requested")


async def test_a_beat_says_which_attempts_are_not_the_agents(server: Server) -> None:
    agent, order = await server.one_running()
    assert agent.session is not None
    live = [order.fence, Fence(777)]
    suspects = server.app.sessions.suspects(agent.session, live)
    assert suspects == [777]
    answer = await server.app.sessions.beat(agent.session, suspects, False)
    assert answer is not None
    assert answer.unknown == [777]


async def test_an_attempt_that_is_live_in_the_database_is_never_called_unknown(server: Server) -> None:
    agent, order = await server.one_running()
    assert agent.session is not None
    answer = await server.app.sessions.beat(agent.session, [order.fence], False)
    assert answer is not None
    assert answer.unknown == []


async def test_the_beat_of_a_replaced_session_is_not_answered_even_beside_one_of_the_new(server: Server) -> None:
    agent = await server.agent()
    old = agent.session
    assert old is not None
    new = await agent.connect()
    beats = [server.app.sessions.beat(session, [], False) for session in (old, new, old)]
    answers = await gathered(beats)
    assert [answer is not None for answer in answers] == [False, True, False]


async def test_a_beat_renews_the_lease(server: Server) -> None:
    agent = await server.agent()
    assert agent.session is not None
    (before,) = await server.rows("select lease_seq from agent_leases")
    await server.app.sessions.beat(agent.session, [], False)
    (after,) = await server.rows("select lease_seq from agent_leases")
    assert after["lease_seq"] == before["lease_seq"] + 1


async def test_a_silent_agent_gets_nothing_until_it_beats(server: Server) -> None:
    agent = await server.agent()
    assert agent.session is not None
    await server.age_roster(36)
    (task_id,) = await server.submit()
    await server.becomes(task_id, TaskState.PENDING, "capacity")
    assert agent.assigned == []
    await server.app.sessions.beat(agent.session, [], False)
    await agent.takes(1)


async def test_a_closed_session_gets_nothing_and_what_runs_goes_on(server: Server) -> None:
    agent, order = await server.one_running()
    await agent.disconnect()
    (task_id,) = await server.submit()
    await server.becomes(task_id, TaskState.PENDING, "capacity")
    assert await server.state(order.task_id) == (TaskState.RUNNING, "")
    await agent.connect(agent.holds(order, RUNNING))
    await agent.takes(2)


async def test_a_drained_agent_gets_no_work_and_keeps_what_it_has(server: Server) -> None:
    agent, order = await server.one_running()
    view = await server.app.agents.drain(agent.agent_id, ONCE, draining=True)
    assert (view.state, view.attempts) == (AgentState.DRAINING, 1)
    (task_id,) = await server.submit()
    await server.becomes(task_id, TaskState.PENDING, "capacity")
    session = await agent.connect(agent.holds(order, RUNNING))
    await server.app.sessions.beat(session, [], True)
    await server.app.sessions.beat(session, [], False)
    await server.settled()
    assert len(agent.assigned) == 1
    assert await agent.ends(order, exited(0))
    await server.app.agents.drain(agent.agent_id, ONCE, draining=False)
    await agent.takes(2)


async def test_an_agent_can_drain_itself_by_hello_and_by_beat(server: Server) -> None:
    agent = await server.join()
    session = await agent.connect(draining=True)
    (task_id,) = await server.submit()
    await server.becomes(task_id, TaskState.PENDING, "capacity")
    await server.app.sessions.beat(session, [], False)
    await agent.takes(1)


async def test_a_drain_can_be_repeated_and_its_request_id_not_reused(server: Server) -> None:
    agent = await server.agent()
    drain = Mutation(token_id=1, method="DrainAgent", request_id="d1", digest=b"1" * 32)
    await server.app.agents.drain(agent.agent_id, drain, draining=True)
    await server.app.agents.drain(agent.agent_id, ONCE, draining=False)
    view = await server.app.agents.drain(agent.agent_id, drain, draining=True)
    assert view.state is AgentState.READY


async def test_what_an_agent_holds_stays_reserved_over_a_reconnect(server: Server) -> None:
    agent = await server.agent(capacity=a_capacity(cpus=2, gpus=some_gpus("A100", "A100")))
    need = a_new_task(resources=replace(a_new_task().shape.resources, gpu_count=1))
    await server.submit(need, need)
    orders = await agent.takes(2)
    for order in orders:
        await agent.starts(order)
    await agent.connect(*(agent.holds(order, RUNNING) for order in orders))
    (task_id,) = await server.submit()
    await server.becomes(task_id, TaskState.PENDING, "capacity")
    view = await server.app.agents.get(agent.agent_id)
    assert (view.reserved.cpus_milli, len(view.reserved.gpus), view.attempts) == (2000, 2, 2)


async def test_a_machine_that_shrank_is_overfull_until_attempts_end(server: Server) -> None:
    agent = await server.agent(capacity=a_capacity(cpus=2))
    await server.submit(*[a_new_task()] * 3)
    orders = list(await agent.takes(2))
    for order in orders:
        await agent.starts(order)
    agent.capacity = a_capacity(cpus=1)
    await agent.connect(*(agent.holds(order, RUNNING) for order in orders))
    assert await agent.ends(orders[0], exited(0))
    await server.settled()
    assert len(agent.assigned) == 2
    assert await agent.ends(orders[1], exited(0))
    await agent.takes(3)


async def test_an_assignment_in_flight_when_the_session_is_replaced_reaches_the_agent_in_the_end(
    server: Server,
) -> None:
    agent = await server.agent(capacity=a_capacity(cpus=1))
    with server.database.held("assign_tasks") as gate:
        (task_id,) = await server.submit()
        await gate.reached.wait()
        await agent.connect()
    (order,) = await agent.takes(1)
    assert order.task_id == task_id
    await agent.runs(order, exited(0))
    await server.becomes(task_id, TaskState.SUCCEEDED)


async def test_of_two_hellos_at_once_the_newer_session_wins(server: Server) -> None:
    agent = await server.join()
    with server.database.held("live_attempts_of") as gate:
        slow = started(server.app.sessions.open(agent.hello(), FakeAgent(server, agent.agent_id)))
        await gate.reached.wait()
        newer = await agent.connect()
    with pytest.raises(Superseded):
        await slow
    assert server.app.registry.get(agent.agent_id) is newer
    await server.submit()
    await agent.takes(1)


async def test_an_older_hello_that_comes_last_takes_no_work_with_it(server: Server) -> None:
    agent = await server.join()
    with server.database.held("live_attempts_of") as gate:
        slow = started(server.app.sessions.open(agent.hello(), FakeAgent(server, agent.agent_id)))
        await gate.reached.wait()
        await agent.connect()
        await agent.disconnect()
    await gathered([slow])
    (task_id,) = await server.submit()
    await server.settled()
    other = await server.agent()
    (order,) = await other.takes(1)
    assert order.task_id == task_id


async def test_followed_output_is_still_wanted_soon_after_a_reconnect(server: Server) -> None:
    agent, order = await server.one_running()
    server.app.interest.follow(Followed(agent.agent_id, order.task_id, order.fence), 1)
    assert agent.interests[-1] == [order.fence]
    await agent.connect(agent.holds(order, RUNNING))
    assert agent.interests[-1] == [order.fence]
    assert len(agent.interests) == 2
    server.app.interest.follow(Followed(agent.agent_id, order.task_id, order.fence), -1)
    assert agent.interests[-1] == []


async def test_an_agent_that_said_goodbye_is_offline_and_still_a_machine_that_fits(server: Server) -> None:
    agent = await server.agent()
    await agent.disconnect(goodbye=True)
    assert (await server.app.agents.get(agent.agent_id)).state is AgentState.OFFLINE
    (task_id,) = await server.submit()
    await server.becomes(task_id, TaskState.PENDING, "capacity")


async def test_a_second_program_with_the_identity_of_a_connected_agent_is_refused(server: Server) -> None:
    agent, order = await server.one_running()
    clone = FakeAgent(server, agent.agent_id)
    with pytest.raises(Superseded, match="copied"):
        await server.app.sessions.open(replace(clone.hello(), supervisor_id="supervisor-2"), clone)
    assert not agent.endings
    assert (await server.state(order.task_id))[0] is TaskState.RUNNING


async def test_an_attempt_is_remembered_until_its_output_is_complete_and_no_longer(server: Server) -> None:
    agent, order = await server.one_running()
    assert agent.session is not None
    await agent.ends(order, exited(0), [log_end(b"hello")])
    await soon(server.app.news.over.empty, "the end is noted")
    assert order.fence in agent.session.known
    await agent.writes(order, chunk(0, b"hello"))
    known = agent.session.known
    await soon(lambda: order.fence not in known, "the attempt is forgotten")


async def test_a_hundred_agents_that_come_back_at_once_all_get_a_session(server: Server) -> None:
    agents = [await server.join() for _ in range(20)]
    await gathered([agent.connect() for agent in agents for _ in range(3)])
    for agent in agents:
        session = server.app.registry.get(agent.agent_id)
        assert session is not None
        (row,) = await server.rows("select epoch from agent_leases where agent_id = $1", agent.agent_id)
        assert session.epoch == row["epoch"]
    ids = await server.submit(*[a_new_task()] * 20)
    await soon(lambda: sum(len(agent.assigned) for agent in agents) == 20, "all assignments")
    assert sorted(order.task_id for agent in agents for order in agent.assigned) == ids


async def test_the_reaper_ends_what_a_silent_agent_held(server: Server) -> None:
    agent, order = await server.one_running()
    waiting = await server.agent(capacity=a_capacity(cpus=4))
    (row,) = await server.rows("select lease_seq from agent_leases where agent_id = $1", agent.agent_id)
    report = [(order.task_id, order.fence, Outcome(kind=OutcomeKind.LOST))]
    await server.app.reports.end_many(agent.agent_id, report, lease_seq=row["lease_seq"] + 1)
    assert await server.state(order.task_id) == (TaskState.RUNNING, "")
    await agent.disconnect()
    await server.app.reports.end_many(agent.agent_id, report, lease_seq=row["lease_seq"])
    (second,) = await waiting.takes(1)
    assert second.attempt == 2
    assert not await agent.ends(order, exited(0))
    await waiting.runs(second, exited(0))
    await server.becomes(order.task_id, TaskState.SUCCEEDED)


async def test_a_void_finding_of_the_reaper_does_not_swallow_the_agents_own_end(server: Server) -> None:
    agent, order = await server.one_running()
    finding = [(order.task_id, order.fence, Outcome(kind=OutcomeKind.LOST))]
    reaped = server.app.reports.end_many(agent.agent_id, finding, lease_seq=10**6)
    answers = await gathered([agent.ends(order, exited(0)), reaped])
    assert answers[0] is True
    assert await server.state(order.task_id) == (TaskState.SUCCEEDED, "")


async def test_times_of_a_task_are_those_that_the_agent_reports(server: Server) -> None:
    agent, order = await server.one_running()
    then = server.app.clock.now() - timedelta(minutes=5)
    assert await agent.report(order, ENDED, start_time=then, end_time=then + timedelta(minutes=1), outcome=exited(0))
    (row,) = await server.rows("select end_time from tasks")
    assert row["end_time"] == then + timedelta(minutes=1)
