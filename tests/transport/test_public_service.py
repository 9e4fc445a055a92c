"""The public service on a real port: what callers in any language see, of good requests and of bad ones."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from styx.v1 import styx_service_pb2 as wire
from styx.v1 import styx_service_pb2_grpc, tasks_pb2
from styx_server.core.states import TaskState
from tests.support.builders import a_new_task, exited
from tests.support.server import chunk, gathered, log_end
from tests.transport.conftest import ADMIN_TOKEN, Port, bearer

Call = Callable[[Any], Awaitable[Any]]
GOOD = tasks_pb2.TaskSpec(command="true")


class Client:
    """Calls with the administrator's token."""

    def __init__(self, port: Port) -> None:
        self._stub = styx_service_pb2_grpc.StyxServiceStub(port.channel)

    def __getattr__(self, method: str) -> Callable[..., Any]:
        return lambda request: getattr(self._stub, method)(request, metadata=bearer(ADMIN_TOKEN), timeout=30)


@pytest.fixture
def client(port: Port) -> Client:
    """Somebody with a good token."""
    return Client(port)


async def refusal(call: Awaitable[Any]) -> tuple[str, str, list[str]]:
    """How a call is refused: code, reason, and the wrong fields."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return told(caught.value)


def told(error: grpc.aio.AioRpcError) -> tuple[str, str, list[str]]:
    status = rpc_status.from_call(error)
    assert status is not None
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        _ = detail.Unpack(info) or detail.Unpack(bad)
    assert info.domain == "styx"
    return error.code().name, info.reason, [violation.field for violation in bad.field_violations]


async def first(stream: Any) -> Any:
    async for message in stream:
        return message
    return None


async def test_a_task_is_submitted_found_and_shown_as_it_was_sent(client: Client) -> None:
    spec = tasks_pb2.TaskSpec(command="echo hi", name="greeter", labels={"team": "x"}, env={"A": "b"}, priority=5)
    answer = await client.SubmitTask(wire.TaskRequest(spec=spec))
    assert answer.state == tasks_pb2.Task.PENDING
    task = await client.GetTask(wire.GetTaskRequest(task_id=answer.task_id))
    assert (task.id, task.name, dict(task.labels), task.priority) == (answer.task_id, "greeter", {"team": "x"}, 5)
    assert task.spec == spec
    assert [event.kind for event in task.timeline] == ["submitted"]
    status = await client.GetStatus(wire.StatusRequest(task_id=answer.task_id.removeprefix("t")))
    assert (status.task_id, status.state, status.attempt_count) == (answer.task_id, tasks_pb2.Task.PENDING, 0)


async def test_a_hundred_equal_requests_make_one_task_and_another_body_is_refused(client: Client) -> None:
    request = wire.TaskRequest(spec=GOOD, request_id="same")
    answers = await gathered([client.SubmitTask(request) for _ in range(100)])
    assert len({answer.task_id for answer in answers}) == 1
    other = wire.TaskRequest(spec=tasks_pb2.TaskSpec(command="false"), request_id="same")
    assert await refusal(client.SubmitTask(other)) == ("ALREADY_EXISTS", "REQUEST_ID_REUSED", [])
    elsewhere = wire.TaskRequest(spec=GOOD, request_id="same", namespace="prod")
    assert (await refusal(client.SubmitTask(elsewhere)))[1] == "REQUEST_ID_REUSED"


async def test_request_ids_of_different_methods_do_not_meet(client: Client) -> None:
    one = await client.SubmitTask(wire.TaskRequest(spec=GOOD, request_id="r"))
    many = await client.SubmitTasks(wire.SubmitTasksRequest(specs=[GOOD] * 2, request_id="r"))
    again = await client.SubmitTasks(wire.SubmitTasksRequest(specs=[GOOD] * 2, request_id="r"))
    assert one.task_id not in many.task_ids
    assert again == many


async def test_a_batch_with_one_bad_task_stores_nothing_and_names_it(port: Port, client: Client) -> None:
    bad = tasks_pb2.TaskSpec(command="true", priority=9999)
    request = wire.SubmitTasksRequest(specs=[GOOD, GOOD, bad, GOOD])
    assert await refusal(client.SubmitTasks(request)) == (
        "INVALID_ARGUMENT",
        "INVALID_ARGUMENT_FIELD",
        ["specs[2].priority"],
    )
    assert await port.server.rows("select 1 from tasks") == []


async def test_ten_thousand_tasks_fit_in_one_call_and_one_more_does_not(client: Client) -> None:
    answer = await client.SubmitTasks(wire.SubmitTasksRequest(specs=[GOOD] * 10_000))
    assert len(set(answer.task_ids)) == 10_000
    assert (await refusal(client.SubmitTasks(wire.SubmitTasksRequest(specs=[GOOD] * 10_001))))[2] == ["specs"]
    assert (await refusal(client.SubmitTasks(wire.SubmitTasksRequest())))[2] == ["specs"]


WRONG: list[tuple[str, Any, tuple[str, str, list[str]]]] = [
    ("SubmitTask", wire.TaskRequest(), ("INVALID_ARGUMENT", "INVALID_ARGUMENT_FIELD", ["spec.command"])),
    (
        "SubmitTask",
        wire.TaskRequest(spec=tasks_pb2.TaskSpec(command="x", image="i")),
        ("INVALID_ARGUMENT", "NOT_SUPPORTED", ["spec.image"]),
    ),
    (
        "SubmitTask",
        wire.TaskRequest(spec=tasks_pb2.TaskSpec(command="x" * 2**20)),
        ("INVALID_ARGUMENT", "INVALID_ARGUMENT_FIELD", ["spec", "spec.command"]),
    ),
    (
        "SubmitTask",
        wire.TaskRequest(spec=tasks_pb2.TaskSpec(command="x", name="\x1b[31mred")),
        ("INVALID_ARGUMENT", "INVALID_ARGUMENT_FIELD", ["spec.name"]),
    ),
    (
        "SubmitTask",
        wire.TaskRequest(spec=GOOD, request_id="with space"),
        ("INVALID_ARGUMENT", "INVALID_ARGUMENT_FIELD", ["request_id"]),
    ),
    (
        "SubmitTask",
        wire.TaskRequest(spec=GOOD, namespace="../up"),
        ("INVALID_ARGUMENT", "INVALID_ARGUMENT_FIELD", ["namespace"]),
    ),
    ("GetTask", wire.GetTaskRequest(task_id="t999"), ("NOT_FOUND", "TASK_NOT_FOUND", [])),
    ("GetTask", wire.GetTaskRequest(task_id="x"), ("INVALID_ARGUMENT", "INVALID_ARGUMENT_FIELD", ["task_id"])),
    ("GetStatus", wire.StatusRequest(task_id="999"), ("NOT_FOUND", "TASK_NOT_FOUND", [])),
    ("ListTasks", wire.ListTasksRequest(filter="nope"), ("INVALID_ARGUMENT", "FILTER_INVALID", ["filter"])),
    ("ListTasks", wire.ListTasksRequest(filter='name="\0"'), ("INVALID_ARGUMENT", "FILTER_INVALID", ["filter"])),
    (
        "ListTasks",
        wire.ListTasksRequest(filter="create_time>9999-12-31T23:59:59.999999Z"),
        ("INVALID_ARGUMENT", "FILTER_INVALID", ["filter"]),
    ),
    ("ListTasks", wire.ListTasksRequest(page_token="x"), ("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID", ["page_token"])),
    (
        "ListTasks",
        wire.ListTasksRequest(page_size=-1),
        ("INVALID_ARGUMENT", "INVALID_ARGUMENT_FIELD", ["page_size"]),
    ),
    ("CancelTasks", wire.CancelTasksRequest(task_ids=["t999"]), ("NOT_FOUND", "TASK_NOT_FOUND", [])),
    ("CancelTasks", wire.CancelTasksRequest(), ("INVALID_ARGUMENT", "INVALID_ARGUMENT_FIELD", ["task_ids"])),
    (
        "CancelTasks",
        wire.CancelTasksRequest(task_ids=["t1"], stop_grace={"seconds": -1}),
        ("INVALID_ARGUMENT", "INVALID_ARGUMENT_FIELD", ["stop_grace"]),
    ),
    ("RetryTask", wire.RetryTaskRequest(task_id="t999"), ("NOT_FOUND", "TASK_NOT_FOUND", [])),
    ("GetAgent", wire.GetAgentRequest(agent_id="a999"), ("NOT_FOUND", "AGENT_NOT_FOUND", [])),
    ("DrainAgent", wire.DrainAgentRequest(agent_id="a999"), ("NOT_FOUND", "AGENT_NOT_FOUND", [])),
    (
        "CreateJoinToken",
        wire.CreateJoinTokenRequest(max_uses=10_001),
        ("INVALID_ARGUMENT", "INVALID_ARGUMENT_FIELD", ["max_uses"]),
    ),
    (
        "CreateJoinToken",
        wire.CreateJoinTokenRequest(ttl={"seconds": 366 * 86_400}),
        ("INVALID_ARGUMENT", "INVALID_ARGUMENT_FIELD", ["ttl"]),
    ),
    (
        "CreateJoinToken",
        wire.CreateJoinTokenRequest(pool="NO"),
        ("INVALID_ARGUMENT", "INVALID_ARGUMENT_FIELD", ["pool"]),
    ),
]


async def test_a_bad_request_is_refused_with_code_reason_and_field(client: Client) -> None:
    for method, request, expected in WRONG:
        assert await refusal(getattr(client, method)(request)) == expected, (method, request)


async def test_pages_hold_every_task_once(port: Port, client: Client) -> None:
    ids = await port.server.submit(*[a_new_task()] * 25)
    found: list[str] = []
    token = ""
    while True:
        page = await client.ListTasks(wire.ListTasksRequest(page_size=10, page_token=token))
        found += [task.id for task in page.tasks]
        assert not any(task.HasField("spec") for task in page.tasks)
        token = page.next_page_token
        if not token:
            break
        # A task that comes between two pages changes neither.
        await port.server.submit()
    assert found == [f"t{task_id}" for task_id in reversed(ids)]
    other = wire.ListTasksRequest(
        page_token=(await client.ListTasks(wire.ListTasksRequest(page_size=1))).next_page_token
    )
    other.filter = "state=RUNNING"
    assert (await refusal(client.ListTasks(other)))[1] == "PAGE_TOKEN_INVALID"


async def test_agents_are_paged_too(port: Port, client: Client) -> None:
    for _ in range(3):
        await port.server.join()
    one = await client.ListAgents(wire.ListAgentsRequest(page_size=2))
    two = await client.ListAgents(wire.ListAgentsRequest(page_size=2, page_token=one.next_page_token))
    assert [agent.id for agent in (*one.agents, *two.agents)] == ["a1", "a2", "a3"]
    assert not two.next_page_token


async def test_a_repeated_request_for_a_join_token_gives_the_same_secret(client: Client) -> None:
    request = wire.CreateJoinTokenRequest(request_id="j1")
    one, again = await client.CreateJoinToken(request), await client.CreateJoinToken(request)
    other = await client.CreateJoinToken(wire.CreateJoinTokenRequest(request_id="j2"))
    assert one == again
    assert one.token != other.token


async def test_a_watch_goes_on_where_it_was_left(port: Port, client: Client) -> None:
    await port.server.submit()
    stream = client.WatchTasks(wire.WatchTasksRequest())
    seen = await asyncio.wait_for(stream.read(), 20)
    assert [task.id for task in seen.tasks] == ["t1"]
    while not seen.synced:
        seen = await asyncio.wait_for(stream.read(), 20)
    stream.cancel()
    (task_id,) = await port.server.submit()
    again = client.WatchTasks(wire.WatchTasksRequest(cursor=seen.cursor))
    while f"t{task_id}" not in [task.id for task in (await asyncio.wait_for(again.read(), 20)).tasks]:
        pass
    again.cancel()


WRONG_STREAMS: list[tuple[str, Any, str]] = [
    ("WatchTasks", wire.WatchTasksRequest(cursor="x"), "PAGE_TOKEN_INVALID"),
    ("WatchTasks", wire.WatchTasksRequest(cursor="1.9999999999999999999"), "PAGE_TOKEN_INVALID"),
    ("WatchTasks", wire.WatchTasksRequest(filter="id>5"), "FILTER_INVALID"),
    ("WatchTasks", wire.WatchTasksRequest(filter="state=NO"), "FILTER_INVALID"),
    ("WatchTasks", wire.WatchTasksRequest(task_ids=["t999"]), "TASK_NOT_FOUND"),
    ("WatchTasks", wire.WatchTasksRequest(task_ids=["t1"] * 10_001), "INVALID_ARGUMENT_FIELD"),
    ("StreamLogs", wire.StreamLogsRequest(task_id="t999"), "TASK_NOT_FOUND"),
    ("StreamLogs", wire.StreamLogsRequest(task_id="t1", attempt=9), "ATTEMPT_NOT_FOUND"),
    ("StreamLogs", wire.StreamLogsRequest(task_id="t1", attempt=-1), "INVALID_ARGUMENT_FIELD"),
    ("StreamLogs", wire.StreamLogsRequest(task_id="t1", tail_lines=-1), "INVALID_ARGUMENT_FIELD"),
    ("StreamLogs", wire.StreamLogsRequest(task_id="t1", stdout_offset=5), "INVALID_ARGUMENT_FIELD"),
    ("StreamLogs", wire.StreamLogsRequest(task_id="t1", attempt=1, stderr_offset=-5), "INVALID_ARGUMENT_FIELD"),
]


async def test_a_bad_wish_for_a_stream_is_refused(port: Port, client: Client) -> None:
    await port.server.one_running()
    for method, request, reason in WRONG_STREAMS:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await first(getattr(client, method)(request))
        assert told(caught.value)[1] == reason, (method, request)


async def test_logs_come_as_bytes_with_offsets_and_an_end(port: Port, client: Client) -> None:
    agent, order = await port.server.one_running()
    written = bytes(range(256)) * 3000
    for position in range(0, len(written), 200_000):
        await agent.writes(order, chunk(position, written[position : position + 200_000]))
    await agent.ends(order, exited(0), [log_end(written)])
    got, last = b"", False
    async for piece in client.StreamLogs(wire.StreamLogsRequest(task_id=f"t{order.task_id}", stream=1, follow=True)):
        assert piece.offset == len(got)
        assert len(piece.data) <= 1 << 20
        got += piece.data
        last = piece.end_of_stream
    assert got == written
    assert last


async def test_a_caller_who_goes_leaves_nothing_behind(port: Port, client: Client) -> None:
    _, order = await port.server.one_running()
    for _ in range(3):
        logs = client.StreamLogs(wire.StreamLogsRequest(task_id=f"t{order.task_id}", follow=True))
        watch = client.WatchTasks(wire.WatchTasksRequest())
        await asyncio.wait_for(watch.read(), 20)
        logs.cancel()
        watch.cancel()
    deadline = asyncio.get_running_loop().time() + 20
    while port.server.app.streams._outputs or port.server.app.feed._watchers:
        assert asyncio.get_running_loop().time() < deadline
        await asyncio.sleep(0.01)


async def test_the_server_says_what_it_is_and_how_it_does(port: Port, client: Client) -> None:
    agent, order = await port.server.one_running()
    await agent.ends(order, exited(0))
    info = await client.GetServerInfo(wire.GetServerInfoRequest())
    assert info.deployment_id == str(port.server.app.identity.deployment_id)
    assert info.task_counts["SUCCEEDED"] == 1
    assert dict(info.agent_counts) == {"READY": 1}
    assert "tasks" in info.features


async def test_cancel_and_retry_answer_with_the_task_as_it_is_then(port: Port, client: Client) -> None:
    (task_id,) = await port.server.submit()
    answer = await client.CancelTasks(wire.CancelTasksRequest(task_ids=[f"t{task_id}"], request_id="c"))
    assert [task.state for task in answer.tasks] == [tasks_pb2.Task.CANCELLED]
    task = await client.RetryTask(wire.RetryTaskRequest(task_id=f"t{task_id}", request_id="r"))
    assert task.state == tasks_pb2.Task.PENDING
    again = await client.CancelTasks(wire.CancelTasksRequest(task_ids=[f"t{task_id}"], request_id="c"))
    assert [item.state for item in again.tasks] == [tasks_pb2.Task.PENDING]
    assert (await refusal(client.RetryTask(wire.RetryTaskRequest(task_id=f"t{task_id}"))))[1] == "TASK_NOT_ENDED"
    assert (await port.server.state(task_id))[0] is TaskState.PENDING
