"""Submit: what was answered is stored, once, whatever comes twice or at once."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from styx_server.core.errors import Conflict, StyxError
from styx_server.core.states import TaskState
from styx_server.core.task import RetryPolicy
from tests.support.builders import a_new_task, a_shape
from tests.support.server import Server, gathered
from tests.support.until import soon


async def count(server: Server, table: str = "tasks") -> int:
    (row,) = await server.rows(f"select count(*) as count from {table}")  # noqa: S608
    return int(row["count"])


async def test_a_hundred_equal_requests_at_once_make_one_task(server: Server) -> None:
    answers = await gathered([server.submit(request_id="r1") for _ in range(100)])
    assert len({tuple(answer) for answer in answers}) == 1
    assert await count(server) == 1
    assert await server.submit(request_id="r1") == answers[0]
    assert await count(server) == 1
    assert await count(server, "task_specs") == 1


async def test_a_request_id_with_another_body_is_refused_and_changes_nothing(server: Server) -> None:
    await server.submit(request_id="r1", body=b"one")
    with pytest.raises(Conflict, match="r1"):
        await server.submit(request_id="r1", body=b"two")
    assert await count(server) == 1


async def test_of_two_bodies_at_once_exactly_one_wins(server: Server) -> None:
    answers = await gathered([server.submit(request_id="r1", body=b"%d" % (number % 2)) for number in range(40)])
    refused = [answer for answer in answers if isinstance(answer, Conflict)]
    stored = {tuple(answer) for answer in answers if not isinstance(answer, StyxError)}
    assert (len(refused), len(stored)) == (20, 1)
    assert await count(server) == 1


async def test_a_batch_is_stored_whole_in_its_order_and_repeated_whole(server: Server) -> None:
    tasks = [a_new_task(name=f"n{number}", priority=number % 3) for number in range(500)]
    ids = await server.submit(*tasks, request_id="batch")
    assert ids == sorted(ids)
    assert len(set(ids)) == 500
    views = await server.app.tasks.many(ids)
    assert [view.name for view in views] == [task.name for task in tasks]
    assert await server.submit(*tasks, request_id="batch") == ids
    assert await count(server) == 500


async def test_tasks_of_a_batch_with_one_spec_share_it(server: Server) -> None:
    task = a_new_task()
    await server.submit(*[task] * 1000)
    assert await count(server) == 1000
    assert await count(server, "task_specs") == 1


async def test_calls_that_come_at_once_are_stored_apart(server: Server) -> None:
    answers = await gathered([server.submit(name=f"n{number}", request_id=f"r{number}") for number in range(200)])
    ids = [task_id for answer in answers for task_id in answer]
    assert len(set(ids)) == 200
    views = await server.app.tasks.many(ids)
    assert [view.name for view in views] == [f"n{number}" for number in range(200)]


async def test_without_a_request_id_every_call_is_new(server: Server) -> None:
    await gathered([server.submit() for _ in range(10)])
    assert await count(server) == 10


async def test_one_bad_call_does_not_spoil_those_stored_with_it(server: Server) -> None:
    server.expected.add("flush_failed")
    # What no door would let in: only the database refuses it.
    bad = replace(a_new_task(), name="nul \0")
    answers = await gathered([*(server.submit(name=f"n{number}") for number in range(10)), server.submit(bad)])
    assert [isinstance(answer, StyxError) for answer in answers] == [False] * 10 + [True]
    assert await count(server) == 10


async def test_everything_of_the_spec_that_the_server_acts_on_is_stored(server: Server) -> None:
    (task_id,) = await server.submit(
        name="all",
        labels={"team": "x"},
        priority=7,
        at_most_once=True,
        disconnect_seconds=None,
        retry=RetryPolicy(backoff_seconds=2.5),
    )
    (row,) = await server.rows("select * from tasks")
    assert (row["priority"], row["at_most_once"], row["disconnect_ms"], row["state"]) == (7, True, None, 1)
    details = await server.app.tasks.get(task_id)
    assert (details.task.name, details.task.labels, details.attempts) == ("all", {"team": "x"}, [])
    assert [event.kind for event in details.timeline] == ["submitted"]
    facts = await server.database.fetch_row("read_facts", ids=[task_id])
    assert facts is not None
    assert facts["retry"]["backoff_seconds"] == 2.5


async def test_a_task_that_nobody_can_run_says_so(server: Server) -> None:
    await server.agent()
    (task_id,) = await server.submit(*[a_new_task(resources=a_shape(memory_bytes=2**50).resources)])
    await server.becomes(task_id, TaskState.PENDING, "no_match")
    (view,) = await server.app.tasks.many([task_id])
    assert "1.049e+06 GiB of memory" in view.message


async def test_a_task_without_room_waits_for_capacity(server: Server) -> None:
    agent = await server.agent()
    ids = await server.submit(*[a_new_task()] * 5)
    await agent.takes(4)
    await server.becomes(ids[4], TaskState.PENDING, "capacity")


async def test_each_priority_waits_its_turn(server: Server) -> None:
    ids = await server.submit(*[a_new_task(priority=priority) for priority in (0, 5, -5, 5, 9)])
    agent = await server.agent()
    orders = await agent.takes(4)
    assert [order.task_id for order in orders[:4]] == [ids[4], ids[1], ids[3], ids[0]]


async def test_two_namespaces_share_what_there_is(server: Server) -> None:
    many = await server.submit(*[a_new_task()] * 50, namespace="many")
    few = await server.submit(*[a_new_task()] * 5, namespace="few")
    agent = await server.agent()
    orders = await agent.takes(4)
    assert Counter(order.namespace for order in orders) == {"many": 2, "few": 2}
    assert {order.task_id for order in orders} == {*many[:2], *few[:2]}


async def test_a_task_for_later_is_not_started_before_its_time(server: Server) -> None:
    agent = await server.agent()
    later = server.app.clock.now().replace(year=2100)
    (task_id,) = await server.submit(not_before=later)
    (soon_id,) = await server.submit()
    await agent.takes(1)
    assert [order.task_id for order in agent.assigned] == [soon_id]
    assert (await server.state(task_id))[0] is TaskState.PENDING


async def test_more_tasks_than_one_round_places_all_get_their_turn(server: Server) -> None:
    ids = await server.submit(*[a_new_task(resources=a_shape(cpus_milli=0).resources)] * 1300)
    agent = await server.agent()
    orders = await agent.takes(1300)
    assert sorted(order.task_id for order in orders) == ids
    assert len({order.fence for order in orders}) == 1300
    await soon(lambda: server.app.scheduling.waiting == 0, "an empty queue")
