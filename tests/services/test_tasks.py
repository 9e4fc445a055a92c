"""Cancel and retry: of whatever runs at the same time, exactly one thing has happened in the end. And lists."""

from __future__ import annotations

from dataclasses import replace

import pytest

from styx_server.core.errors import Conflict, NotFound, WrongState
from styx_server.core.filter import parse_filter
from styx_server.core.states import AttemptState, OutcomeKind, TaskState
from styx_server.core.task import Outcome, RetryPolicy, TaskId
from styx_server.services.tasks import MAX_ID, Mutation
from tests.support.builders import a_new_task, an_outcome, exited
from tests.support.server import ONCE, Server, gathered, started
from tests.support.until import soon

CANCELLED = Outcome(kind=OutcomeKind.CANCELLED)
CANCEL = Mutation(token_id=1, method="CancelTasks", request_id="c1", digest=b"c" * 32)
RETRY = Mutation(token_id=1, method="RetryTask", request_id="r1", digest=b"r" * 32)


async def test_a_waiting_task_is_cancelled_at_once_and_never_runs(server: Server) -> None:
    (task_id,) = await server.submit()
    assert await server.cancel(task_id) == [TaskState.CANCELLED]
    agent = await server.agent()
    (following,) = await server.submit()
    (order,) = await agent.takes(1)
    assert order.task_id == following
    assert await server.state(task_id) == (TaskState.CANCELLED, "cancel_requested")


async def test_an_assigned_task_is_cancelling_until_its_agent_says_so(server: Server) -> None:
    agent = await server.agent()
    (task_id,) = await server.submit()
    (order,) = await agent.takes(1)
    assert await server.cancel(task_id) == [TaskState.CANCELLING]
    assert [stop.fence for stop in agent.stops] == [order.fence]
    assert await agent.ends(order, CANCELLED)
    assert await server.state(task_id) == (TaskState.CANCELLED, "cancel_requested")


async def test_a_running_task_is_cancelling_until_its_last_process_is_gone(server: Server) -> None:
    agent, order = await server.one_running()
    assert await server.cancel(order.task_id, grace=0.25) == [TaskState.CANCELLING]
    assert [(stop.fence, stop.grace_seconds) for stop in agent.stops] == [(order.fence, 0.25)]
    assert await agent.report(order, AttemptState.STOPPING)
    assert await server.state(order.task_id) == (TaskState.CANCELLING, "cancel_requested")
    assert await agent.ends(order, CANCELLED)
    assert await server.state(order.task_id) == (TaskState.CANCELLED, "cancel_requested")


async def test_every_beat_repeats_the_order_to_stop_until_the_end(server: Server) -> None:
    agent, order = await server.one_running()
    await server.cancel(order.task_id)
    assert agent.session is not None
    for _ in range(2):
        answer = await server.app.sessions.beat(agent.session, [], False)
        assert answer is not None
        assert [stop.fence for stop in answer.stops] == [order.fence]
    assert await agent.ends(order, CANCELLED)
    answer = await server.app.sessions.beat(agent.session, [], False)
    assert answer is not None
    assert answer.stops == []


async def test_a_second_cancel_can_shorten_the_grace(server: Server) -> None:
    agent, order = await server.one_running()
    await server.cancel(order.task_id, grace=300)
    await server.cancel(order.task_id, grace=0)
    assert [stop.grace_seconds for stop in agent.stops] == [300, 0]
    assert await server.cancel(order.task_id) == [TaskState.CANCELLING]
    assert agent.stops[-1].grace_seconds == 0


async def test_an_ended_task_stays_as_it_is(server: Server) -> None:
    agent, order = await server.one_running()
    assert await agent.ends(order, exited(0))
    assert await server.cancel(order.task_id) == [TaskState.SUCCEEDED]


async def test_cancelling_many_is_all_or_nothing_and_in_the_order_asked(server: Server) -> None:
    ids = await server.submit(*[a_new_task()] * 5)
    with pytest.raises(NotFound, match="t999999"):
        await server.cancel(*ids, TaskId(999_999))
    assert (await server.state(ids[0]))[0] is TaskState.PENDING
    views = await server.app.tasks.cancel([ids[3], ids[1], ids[3]], ONCE, None)
    assert [view.task_id for view in views] == [ids[3], ids[1], ids[3]]
    assert {view.state for view in views} == {TaskState.CANCELLED}


async def test_a_cancel_and_an_end_at_once_leave_one_terminal_state(server: Server) -> None:
    agent = await server.agent()
    for number in range(8):
        # A pause before the retry: without it a second attempt may rightly begin between the end and the cancel.
        (task_id,) = await server.submit(retry=RetryPolicy(max_retries=1, backoff_seconds=100))
        order = (await agent.takes(number + 1))[number]
        await agent.starts(order)
        calls = [agent.ends(order, exited(1)), server.cancel(task_id)]
        answers = await gathered(calls if number % 2 else calls[::-1])
        assert not any(isinstance(answer, Exception) for answer in answers)
        # Whichever was first: the wish to stop holds, so there is no second attempt.
        await server.becomes(task_id, TaskState.CANCELLED)
    await server.settled()
    assert len(agent.assigned) == 8


async def test_a_cancel_that_meets_a_task_between_two_attempts_is_not_lost(server: Server) -> None:
    agent, order = await server.one_running(retry=RetryPolicy(max_retries=1, backoff_seconds=100))
    with server.database.held("cancel_live") as gate:
        cancel = started(server.cancel(order.task_id))
        await gate.reached.wait()
        end = started(agent.ends(order, exited(1)))
        async with server.database.connection() as connection:
            # The end waits for the cancel, or it is stored already; it never slips through in between.
            await connection.execute("select 1")
    await gathered([cancel, end])
    await soon(end.done, "the end is stored")
    assert await server.state(order.task_id) == (TaskState.CANCELLED, "cancel_requested")


async def test_a_cancel_in_flight_makes_the_end_decide_again(server: Server) -> None:
    agent, order = await server.one_running()
    with server.database.held("end_attempts") as gate:
        end = started(agent.ends(order, exited(1)))
        await gate.reached.wait()
        assert await server.cancel(order.task_id) == [TaskState.CANCELLING]
    assert await end
    assert await server.state(order.task_id) == (TaskState.CANCELLED, "cancel_requested")


async def test_a_cancelling_task_ends_cancelled_whatever_its_attempt_says(server: Server) -> None:
    agent = await server.agent()
    for number, kind in enumerate(OutcomeKind):
        (task_id,) = await server.submit(at_most_once=True)
        order = (await agent.takes(number + 1))[number]
        await agent.starts(order)
        await server.cancel(task_id)
        assert await agent.ends(order, an_outcome(kind))
        assert await server.state(task_id) == (TaskState.CANCELLED, "cancel_requested"), kind


async def test_a_repeated_cancel_does_not_touch_a_task_that_was_opened_again(server: Server) -> None:
    (task_id,) = await server.submit()
    await server.app.tasks.cancel([task_id], CANCEL, None)
    await server.app.tasks.retry(task_id, RETRY)
    views = await server.app.tasks.cancel([task_id], CANCEL, None)
    assert [view.state for view in views] == [TaskState.PENDING]
    with pytest.raises(Conflict):
        await server.app.tasks.cancel([task_id], replace(CANCEL, digest=b"x" * 32), None)


async def test_a_repeated_cancel_sends_the_orders_that_were_lost_with_the_first_answer(server: Server) -> None:
    agent, order = await server.one_running()
    server.database.lose_answer("cancel_live")
    (lost,) = await gathered([server.app.tasks.cancel([order.task_id], CANCEL, None)])
    assert isinstance(lost, Exception)
    await server.app.tasks.cancel([order.task_id], CANCEL, None)
    assert {stop.fence for stop in agent.stops} == {order.fence}


async def test_a_hundred_cancels_at_once_are_one(server: Server) -> None:
    agent, order = await server.one_running()
    await gathered([server.cancel(order.task_id) for _ in range(30)])
    assert await agent.ends(order, CANCELLED)
    details = await server.app.tasks.get(order.task_id)
    assert [event.kind for event in details.timeline].count("cancel_requested") == 1


@pytest.mark.parametrize("state", ["waiting", "running", "succeeded"])
async def test_only_what_ended_without_success_is_retried(server: Server, state: str) -> None:
    (task_id,) = await server.submit()
    if state != "waiting":
        agent = await server.agent()
        (order,) = await agent.takes(1)
        await agent.starts(order)
        if state == "succeeded":
            await agent.ends(order, exited(0))
    with pytest.raises(WrongState) as caught:
        await server.app.tasks.retry(task_id, RETRY)
    assert caught.value.reason == ("TASK_ENDED" if state == "succeeded" else "TASK_NOT_ENDED")
    assert await server.rows("select 1 from requests") == []


async def test_a_cancelled_task_can_be_retried_and_runs(server: Server) -> None:
    (task_id,) = await server.submit()
    await server.cancel(task_id)
    details = await server.app.tasks.retry(task_id, RETRY)
    assert (details.task.state, details.task.end_time) == (TaskState.PENDING, None)
    agent = await server.agent()
    (order,) = await agent.takes(1)
    await agent.runs(order, exited(0))
    assert (await server.state(task_id))[0] is TaskState.SUCCEEDED


async def test_a_task_that_does_not_exist_is_not_found(server: Server) -> None:
    for call in (server.app.tasks.get, server.app.tasks.status):
        with pytest.raises(NotFound):
            await call(TaskId(999))
    with pytest.raises(NotFound):
        await server.app.tasks.retry(TaskId(999), ONCE)


async def test_lists_page_through_everything_once_newest_first(server: Server) -> None:
    ids = await server.submit(*[a_new_task()] * 25)
    found: list[TaskId] = []
    below = MAX_ID
    while page := await server.app.tasks.page("default", parse_filter(""), below, 10, with_body=False):
        assert len(page) <= 10
        found += [view.task_id for view in page]
        below = page[-1].task_id
    assert found == ids[::-1]


FILTERS: list[tuple[str, set[str]]] = [
    ("", {"ended", "running", "labelled", "odd"}),
    ("state=SUCCEEDED", {"ended"}),
    ("state!=SUCCEEDED,RUNNING", {"labelled", "odd"}),
    ("name=ended,odd", {"ended"}),
    ('name!="odd, name"', {"ended", "running", "labelled"}),
    ('name="odd, name"', {"odd"}),
    ("label.team=x", {"labelled"}),
    ("label.team!=x", {"ended", "running", "odd"}),
    ("label.team=x AND label.tier=2", {"labelled"}),
    ("label.team=x AND label.tier=3", set()),
    ("label.team=x AND label.team=y", set()),
    ("agent=a1", {"ended", "running"}),
    ("agent!=a1", {"labelled", "odd"}),
    ("id>t1 AND id<=t3", {"running", "labelled"}),
    ("id=1 AND id=2", set()),
    ("create_time>2100-01-01T00:00:00Z", set()),
    (
        "create_time<2100-01-01T00:00:00Z AND create_time>2000-01-01T00:00:00+01:00",
        {"ended", "running", "labelled", "odd"},
    ),
    (
        "create_time>=0001-01-01T00:00:00Z AND create_time<=9999-12-31T23:59:59Z",
        {"ended", "running", "labelled", "odd"},
    ),
    ('name="\' or 1=1 --"', set()),
]


async def test_every_filter_finds_what_it_says(server: Server) -> None:
    agent = await server.agent()
    await server.submit(name="ended")
    await agent.runs((await agent.takes(1))[0], exited(0))
    await server.submit(name="running")
    await agent.starts((await agent.takes(2))[1])
    await server.app.agents.drain(agent.agent_id, ONCE, draining=True)
    await server.submit(name="labelled", labels={"team": "x", "tier": "2"})
    await server.submit(name="odd, name", namespace="default")
    await server.submit(name="elsewhere", namespace="other")
    for text, names in FILTERS:
        page = await server.app.tasks.page("default", parse_filter(text), MAX_ID, 100, with_body=False)
        assert {view.name.split(",")[0] for view in page} == names, text
    (view,) = await server.app.tasks.page("other", parse_filter(""), MAX_ID, 100, with_body=True)
    assert view.body
