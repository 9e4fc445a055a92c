"""From an assignment to its end: what agents report is stored once, and only what is theirs to report."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from styx_server.core.session import AttemptReport
from styx_server.core.states import AttemptState, OutcomeKind, TaskState
from styx_server.core.task import AgentId, Fence, Outcome, Resources, RetryPolicy, TaskId
from styx_server.services.reports import Answer
from styx_server.services.tasks import Mutation
from tests.support.builders import a_capacity, a_new_task, an_outcome, exited, some_gpus
from tests.support.server import Server, gathered
from tests.support.until import soon

RUNNING, ENDED, STOPPING = AttemptState.RUNNING, AttemptState.ENDED, AttemptState.STOPPING


async def test_a_task_runs_and_succeeds(server: Server) -> None:
    agent, order = await server.one_running(name="x")
    assert await server.state(order.task_id) == (TaskState.RUNNING, "")
    assert await agent.ends(order, exited(0))
    details = await server.app.tasks.get(order.task_id)
    assert (details.task.state, details.task.exit_code) == (TaskState.SUCCEEDED, 0)
    assert details.task.end_time is not None
    (attempt,) = details.attempts
    assert (attempt.number, attempt.fence, attempt.agent_id) == (1, order.fence, agent.agent_id)
    assert attempt.outcome == exited(0)
    assert [event.kind for event in details.timeline] == ["submitted", "assigned", "started", "ended"]
    assert server.app.ledger.held_on(agent.agent_id) == []


async def test_what_is_assigned_is_stored_before_it_is_sent(server: Server) -> None:
    agent = await server.agent()
    await server.submit()
    (order,) = await agent.takes(1)
    (row,) = await server.rows("select * from tasks")
    assert (row["fence"], row["attempt"], row["attempt_state"], row["agent_id"]) == (
        order.fence,
        1,
        AttemptState.ASSIGNED,
        agent.agent_id,
    )
    assert order.attempt == 1


async def test_a_start_and_an_end_in_one_flush_are_one_report(server: Server) -> None:
    agent = await server.agent()
    await server.submit()
    (order,) = await agent.takes(1)
    answers = await gathered(
        [agent.report(order, RUNNING, start_time=server.app.clock.now()), agent.ends(order, exited(0))]
    )
    assert answers == [True, True]
    await server.becomes(order.task_id, TaskState.SUCCEEDED)


async def test_reports_that_come_again_change_nothing_and_are_accepted(server: Server) -> None:
    agent, order = await server.one_running()
    assert await agent.report(order, RUNNING)
    assert await agent.report(order, AttemptState.PREPARING)
    assert await gathered([agent.ends(order, exited(0)) for _ in range(5)]) == [True] * 5
    assert await agent.ends(order, exited(1))
    assert await server.state(order.task_id) == (TaskState.SUCCEEDED, "")
    assert len(await server.rows("select 1 from attempts")) == 1


async def test_whoever_says_once_more_that_an_attempt_was_lost_is_not_refused(server: Server) -> None:
    agent, order = await server.one_running()
    lost = an_outcome(OutcomeKind.LOST)
    assert await agent.ends(order, lost)
    assert await agent.ends(order, lost)
    assert len(await server.rows("select 1 from attempts")) == 1


async def test_a_good_end_is_stored_without_a_look_at_the_task(server: Server) -> None:
    agent, order = await server.one_running()
    with server.database.held("read_facts"):
        assert await agent.ends(order, exited(0))
        await server.becomes(order.task_id, TaskState.SUCCEEDED)


async def test_a_good_end_of_what_somebody_cancelled_meanwhile_is_cancelled(server: Server) -> None:
    agent, order = await server.one_running()
    mutation = Mutation(token_id=1, method="CancelTasks", request_id="c1", digest=b"c" * 32)
    await server.app.tasks.cancel([order.task_id], mutation, None)
    assert await agent.ends(order, exited(0))
    await server.becomes(order.task_id, TaskState.CANCELLED)


async def test_a_good_end_that_a_stranger_reports_is_refused(server: Server) -> None:
    _, order = await server.one_running()
    stranger = await server.agent()
    ended = AttemptReport(fence=order.fence, task_id=order.task_id, state=ENDED, outcome=exited(0))
    reported = replace(stranger.reported(ended), attempt=order.attempt)
    assert await server.app.reports.add(reported) is Answer.REFUSED
    assert await server.state(order.task_id) == (TaskState.RUNNING, "")


async def test_a_foreign_report_is_refused(server: Server) -> None:
    _, order = await server.one_running()
    stranger = await server.agent()
    assert not await stranger.report(order, STOPPING)
    assert not await stranger.ends(order, exited(0))
    assert await server.state(order.task_id) == (TaskState.RUNNING, "")


async def test_a_foreign_report_in_the_same_flush_does_not_silence_the_owner(server: Server) -> None:
    agent = await server.agent(capacity=a_capacity(cpus=2))
    await server.submit()
    (order,) = await agent.takes(1)
    stranger = await server.agent()
    starts = [agent.report(order, RUNNING), stranger.ends(order, exited(1))]
    assert await gathered(starts) == [True, False]
    assert await server.state(order.task_id) == (TaskState.RUNNING, "")
    ends = [stranger.ends(order, exited(1)), agent.ends(order, exited(0)), stranger.ends(order, exited(1))]
    assert await gathered(ends) == [False, True, False]
    assert await server.state(order.task_id) == (TaskState.SUCCEEDED, "")


async def test_a_foreign_start_in_the_same_flush_is_refused_all_the_same(server: Server) -> None:
    agent = await server.agent()
    await server.submit()
    (order,) = await agent.takes(1)
    stranger = await server.agent()
    assert await gathered([agent.report(order, RUNNING), stranger.report(order, RUNNING)]) == [True, False]


async def test_a_report_with_the_fence_of_another_task_is_refused(server: Server) -> None:
    agent = await server.agent()
    await server.submit(*[a_new_task()] * 2)
    one, other = await agent.takes(2)
    crossed = [agent.report(order, RUNNING) for order in (one, other, replace(one, task_id=other.task_id))]
    assert await gathered(crossed) == [True, True, False]


async def test_a_start_of_an_older_session_is_refused_and_does_not_touch_the_newer(server: Server) -> None:
    agent = await server.agent()
    await server.submit()
    (order,) = await agent.takes(1)
    old = agent.session
    assert old is not None
    await agent.connect(agent.holds(order, RUNNING))
    answers = await gathered([agent.report(order, RUNNING), agent.report(order, STOPPING, epoch=old.epoch)])
    assert answers[0] is True
    assert not await agent.report(order, STOPPING, epoch=old.epoch)
    (row,) = await server.rows("select attempt_state from tasks")
    assert row["attempt_state"] == RUNNING


async def test_an_end_is_taken_from_an_older_session_too(server: Server) -> None:
    agent, order = await server.one_running()
    old = agent.session
    assert old is not None
    await agent.connect(agent.holds(order, RUNNING))
    assert await agent.report(order, ENDED, epoch=old.epoch, outcome=exited(0), end_time=server.app.clock.now())
    assert await server.state(order.task_id) == (TaskState.SUCCEEDED, "")


async def test_who_says_live_of_what_the_server_ended_is_told_to_stop(server: Server) -> None:
    agent = await server.agent()
    for kind in (OutcomeKind.LOST, OutcomeKind.REJECTED, OutcomeKind.SUPERVISOR_LOST, OutcomeKind.HOST_REBOOTED):
        await server.submit(at_most_once=True)
        await soon(lambda: agent.session is not None and bool(agent.assigned), "an assignment")
        order = agent.assigned.pop()
        await agent.starts(order)
        await agent.ends(order, an_outcome(kind))
        assert not await agent.report(order, RUNNING), kind
        assert not await agent.report(order, STOPPING), kind
        await server.cancel(order.task_id)
        agent.assigned.clear()


async def test_a_report_about_nothing_that_exists_is_refused(server: Server) -> None:
    agent, order = await server.one_running()
    nowhere = replace(order, task_id=TaskId(10**9), fence=Fence(10**9))
    assert not await agent.report(nowhere, RUNNING)
    assert not await agent.ends(nowhere, exited(0))


async def test_a_failure_is_retried_by_its_exit_code_and_after_its_wait(server: Server) -> None:
    agent = await server.agent()
    retry = RetryPolicy(max_retries=2, backoff_seconds=0.05, on_exit_codes=(75,))
    (task_id,) = await server.submit(retry=retry)
    await agent.runs((await agent.takes(1))[0], exited(75))
    await agent.runs((await agent.takes(2))[1], exited(75))
    third = (await agent.takes(3))[2]
    assert third.attempt == 3
    await agent.runs(third, exited(75))
    await server.becomes(task_id, TaskState.FAILED, "exit_code")
    details = await server.app.tasks.get(task_id)
    assert [attempt.cause for attempt in details.attempts] == ["first", "retry", "retry"]
    assert len({attempt.fence for attempt in details.attempts}) == 3


async def test_a_failure_of_another_code_is_final(server: Server) -> None:
    agent = await server.agent()
    (task_id,) = await server.submit(retry=RetryPolicy(max_retries=2, on_exit_codes=(75,)))
    await agent.runs((await agent.takes(1))[0], exited(1))
    assert await server.state(task_id) == (TaskState.FAILED, "exit_code")


async def test_a_task_in_backoff_says_so_and_when(server: Server) -> None:
    agent = await server.agent()
    (task_id,) = await server.submit(retry=RetryPolicy(max_retries=1, backoff_seconds=300))
    await agent.runs((await agent.takes(1))[0], exited(1))
    assert await server.state(task_id) == (TaskState.PENDING, "backoff")
    (row,) = await server.rows("select not_before from tasks")
    assert timedelta(seconds=100) < row["not_before"] - server.app.clock.now() <= timedelta(seconds=300)
    assert len(agent.assigned) == 1


ENDS = [
    (OutcomeKind.TIMED_OUT, TaskState.TIMED_OUT, "timeout"),
    (OutcomeKind.OOM_KILLED, TaskState.FAILED, "out_of_memory"),
    (OutcomeKind.START_FAILED, TaskState.FAILED, "start_failed"),
    (OutcomeKind.SIGNALED, TaskState.FAILED, "signal"),
]


async def test_each_kind_of_end_is_stored_with_its_reason(server: Server) -> None:
    agent = await server.agent()
    for number, (kind, state, reason) in enumerate(ENDS):
        await server.submit()
        order = (await agent.takes(number + 1))[number]
        await agent.starts(order)
        assert await agent.ends(order, Outcome(kind=kind, signal=9, message="so it was"))
        assert await server.state(order.task_id) == (state, reason)
        (row,) = await server.rows("select * from attempts where task_id = $1", order.task_id)
        assert (row["outcome"], row["signal"], row["message"]) == (kind, 9, "so it was")


async def test_the_budget_of_the_machines_ends_in_a_hold_until_a_person_says_so(server: Server) -> None:
    (task_id,) = await server.submit()
    await server.rows("update tasks set infra_failures = 5")
    agent = await server.agent()
    (order,) = await agent.takes(1)
    assert await agent.ends(order, an_outcome(OutcomeKind.REJECTED))
    assert await server.state(task_id) == (TaskState.PENDING, "held")
    (view,) = await server.app.tasks.many([task_id])
    assert "styx retry" in view.message
    await server.app.tasks.retry(task_id, _once("r1"))
    await agent.runs((await agent.takes(2))[1], exited(0))
    assert await server.state(task_id) == (TaskState.SUCCEEDED, "")


async def test_an_attempt_that_never_started_is_tried_again_even_at_most_once(server: Server) -> None:
    agent = await server.agent()
    (task_id,) = await server.submit(at_most_once=True)
    assert await agent.ends((await agent.takes(1))[0], an_outcome(OutcomeKind.REJECTED))
    second = (await agent.takes(2))[1]
    await agent.starts(second)
    assert await agent.ends(second, an_outcome(OutcomeKind.SUPERVISOR_LOST))
    assert await server.state(task_id) == (TaskState.LOST, "attempt_lost")


async def test_ends_of_many_agents_are_stored_together_and_apart(server: Server) -> None:
    agents = [await server.agent(capacity=a_capacity(cpus=50)) for _ in range(4)]
    ids = await server.submit(*[a_new_task(name=f"n{number}") for number in range(200)])
    await soon(lambda: sum(len(agent.assigned) for agent in agents) == 200, "all assignments")
    calls = [agent.ends(order, exited(order.task_id % 2)) for agent in agents for order in agent.assigned]
    assert await gathered(calls) == [True] * 200
    for view in await server.app.tasks.many(ids):
        assert view.state is (TaskState.FAILED if view.task_id % 2 else TaskState.SUCCEEDED)


async def test_an_accelerator_is_given_to_one_task_at_a_time(server: Server) -> None:
    agent = await server.agent(capacity=a_capacity(gpus=some_gpus("A100", "A100", "T4")))
    need = Resources(cpus_milli=0, gpu_count=1, gpu_name="a100")
    await server.submit(*[a_new_task(resources=need)] * 3)
    one, other = await agent.takes(2)
    assert sorted([one.gpu_indexes, other.gpu_indexes]) == [(0,), (1,)]
    await agent.runs(one, exited(0))
    third = (await agent.takes(3))[2]
    assert third.gpu_indexes == one.gpu_indexes


async def test_capacity_is_never_given_twice(server: Server) -> None:
    agent = await server.agent(capacity=a_capacity(cpus=3))
    ids = await server.submit(*[a_new_task()] * 40)
    live: set[int] = set()
    for number in range(40):
        orders = await agent.takes(min(40, number + 3))
        live |= {order.fence for order in orders[number:]}
        assert len(live) <= 3
        await agent.runs(orders[number], exited(0))
        live.discard(orders[number].fence)
    for task_id in ids:
        await server.becomes(task_id, TaskState.SUCCEEDED)


async def test_a_retry_on_a_persons_word_makes_one_more_attempt(server: Server) -> None:
    agent, order = await server.one_running()
    await agent.ends(order, exited(1))
    await server.app.tasks.retry(order.task_id, _once("r1"))
    await server.app.tasks.retry(order.task_id, _once("r1"))
    second = (await agent.takes(2))[1]
    await agent.runs(second, exited(0))
    details = await server.app.tasks.get(order.task_id)
    assert details.task.state is TaskState.SUCCEEDED
    assert [attempt.cause for attempt in details.attempts] == ["first", "manual"]
    assert [event.kind for event in details.timeline].count("retry_requested") == 1


async def test_what_waits_on_a_busy_agent_starts_when_it_is_free(server: Server) -> None:
    agent = await server.agent(capacity=a_capacity(cpus=1))
    await server.submit(*[a_new_task()] * 2)
    (first,) = await agent.takes(1)
    await agent.runs(first, exited(0))
    assert (await agent.takes(2))[1].task_id == first.task_id + 1


async def test_an_agent_may_be_named_that_does_not_exist(server: Server) -> None:
    agent, order = await server.one_running()
    reported = agent.reported(AttemptReport(fence=order.fence, task_id=order.task_id, state=STOPPING))
    assert await server.app.reports.add(replace(reported, agent_id=AgentId(999))) is Answer.REFUSED


def _once(request_id: str) -> Mutation:
    return Mutation(token_id=1, method="RetryTask", request_id=request_id, digest=b"d" * 32)
