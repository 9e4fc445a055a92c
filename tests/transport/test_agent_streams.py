"""The agents' service on a real port: sessions, reports and beats, from agents that are right and wrong."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import grpc
import pytest

from styx.agent.v1 import agent_service_pb2 as wire
from styx.agent.v1 import agent_service_pb2_grpc
from styx.v1 import agents_pb2, tasks_pb2
from styx_server.core.states import OutcomeKind, TaskState
from styx_server.core.task import AgentId, Resources
from styx_server.ids import new_secret
from styx_server.services.agents import NewJoinToken
from styx_server.services.removal import HowToRemove
from styx_server.transport.agent_service import moving_seconds
from styx_server.transport.codec import task_details
from tests.support.builders import a_new_task
from tests.support.server import ONCE
from tests.transport.conftest import Port, bearer
from tests.transport.wired import Wired, ends_with, joined, reason_of, told

RUNNING, ENDED = tasks_pb2.Attempt.RUNNING, tasks_pb2.Attempt.ENDED
OUT = tasks_pb2.STDOUT


@pytest.fixture
async def agent(port: Port) -> Wired:
    """An agent that has joined through the port."""
    return await joined(port)


@pytest.mark.parametrize(
    ("request_", "code", "reason"),
    [
        (wire.JoinRequest(join_token="x", key_digest=b"k" * 32), grpc.StatusCode.UNAUTHENTICATED, "JOIN_TOKEN_INVALID"),
        (
            wire.JoinRequest(join_token="x", key_digest=b"short"),
            grpc.StatusCode.INVALID_ARGUMENT,
            "INVALID_ARGUMENT_FIELD",
        ),
    ],
)
async def test_a_stranger_without_a_good_join_token_stays_one(
    port: Port, request_: wire.JoinRequest, code: grpc.StatusCode, reason: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await agent_service_pb2_grpc.AgentServiceStub(port.channel).Join(request_)
    assert (caught.value.code(), reason_of(caught.value)) == (code, reason)


async def test_text_that_could_deceive_is_taken_out_of_what_a_stranger_says(port: Port) -> None:
    join_token = f"styx_join_{new_secret()}"
    wanted = NewJoinToken(token=join_token, max_uses=1, ttl=timedelta(minutes=5), pool="default", labels={})
    await port.server.app.agents.make_join_token(wanted, ONCE)
    request = wire.JoinRequest(
        join_token=join_token, name="a\x1b[31m\0b\u202e" + "c" * 500, key_digest=b"k" * 32, version="1\0\x07" * 99
    )
    answer = await agent_service_pb2_grpc.AgentServiceStub(port.channel).Join(request)
    view = await port.server.app.agents.get(AgentId(answer.agent_id))
    assert view.name.startswith("a[31mbccc")
    assert view.version.isprintable()


async def test_a_task_runs_through_the_wire(port: Port, agent: Wired) -> None:
    async with agent.session() as (call, welcome), agent.output() as output:
        (task_id,) = await port.server.submit(a_new_task())
        assign = await told(call, "assign")
        (order,) = assign.assignments
        assert (order.task_id, order.attempt, order.namespace) == (task_id, 1, "default")
        await call.write(report(1, order, RUNNING))
        assert (await told(call, "report_ack")).seq == 1
        piece = wire.LogChunk(fence=order.fence, stream=OUT, offset=0, length=5, codec=1, data=b"hello")
        await output.write(wire.PushLogsRequest(epoch=welcome.epoch, chunks=[piece]))
        (ack,) = (await output.read()).acks
        assert (ack.fence, ack.durable_offset, ack.rewind, ack.unknown) == (order.fence, 5, False, False)
        end = wire.LogEnd(stream=OUT, total_bytes=5, sha256=hashlib.sha256(b"hello").digest())
        await call.write(report(2, order, ENDED, logs=[end]))
        answer = await told(call, "report_ack")
        assert (answer.seq, list(answer.refused_fences)) == (2, [])
        await port.server.becomes(task_id, TaskState.SUCCEEDED)


async def test_a_beat_is_acked_and_tells_what_is_unknown(port: Port, agent: Wired) -> None:
    async with agent.session() as (call, _):
        await call.write(wire.AgentMessage(heartbeat=wire.Heartbeat(seq=7, live_fences=[4711])))
        ack = await told(call, "heartbeat_ack")
        assert (ack.seq, list(ack.unknown_fences)) == (7, [4711])


async def test_a_refused_report_is_named_in_the_ack(port: Port, agent: Wired) -> None:
    async with agent.session() as (call, _):
        order = wire.Assignment(fence=4711, task_id=1)
        await call.write(report(1, order, RUNNING))
        ack = await told(call, "report_ack")
        assert (ack.seq, list(ack.refused_fences)) == (1, [4711])


async def test_a_cancel_reaches_the_agent(port: Port, agent: Wired) -> None:
    async with agent.session() as (call, _):
        (task_id,) = await port.server.submit(a_new_task())
        (order,) = (await told(call, "assign")).assignments
        await call.write(report(1, order, RUNNING))
        await told(call, "report_ack")
        await port.server.cancel(task_id, grace=1.5)
        (stop,) = (await told(call, "stop")).attempts
        assert (stop.fence, stop.cause, stop.grace.ToTimedelta()) == (order.fence, 1, timedelta(seconds=1.5))


async def test_a_newer_session_ends_the_older_with_its_reason(port: Port, agent: Wired) -> None:
    async with agent.session() as (old, first), agent.session(last_epoch=1) as (_, second):
        assert second.epoch > first.epoch
        assert await ends_with(old) == (grpc.StatusCode.ABORTED, "SESSION_SUPERSEDED")


async def test_a_goodbye_ends_the_session_in_peace(port: Port, agent: Wired) -> None:
    async with agent.session() as (call, _):
        await call.write(wire.AgentMessage(goodbye=wire.Goodbye(reason="upgrade\x1b")))
        assert (await ends_with(call))[0] is grpc.StatusCode.OK
    assert port.server.app.registry.get(agent.agent_id) is None


async def test_an_agent_cannot_speak_for_another(port: Port, agent: Wired) -> None:
    other = await joined(port)
    call = agent.stub.Session(metadata=bearer(agent.token))
    await call.write(agent.hello(agent_id=other.agent_id))
    assert await ends_with(call) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_MISSING")


WRONG_HELLOS: dict[str, Callable[[Wired], wire.AgentMessage]] = {
    "no hello": lambda _: wire.AgentMessage(heartbeat=wire.Heartbeat(seq=1)),
    "nothing": lambda _: wire.AgentMessage(),
}


def gpus(*indexes: int) -> agents_pb2.Capacity:
    return agents_pb2.Capacity(cpus=1, gpus=[agents_pb2.Gpu(index=index, name="A100") for index in indexes])


async def test_a_hello_that_cannot_be_right_is_refused_with_its_field(port: Port, agent: Wired) -> None:
    for what, message in WRONG_HELLOS.items():
        call = agent.stub.Session(metadata=bearer(agent.token))
        await call.write(message(agent))
        assert await ends_with(call) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT_FIELD"), what
        assert port.server.app.registry.get(agent.agent_id) is None


async def test_odd_accelerators_of_one_agent_are_passed_over_and_stop_nobody(port: Port, agent: Wired) -> None:
    async with agent.session(capacity=gpus(40_000, 1, 0, 0, 2**32 - 1)) as (call, _):
        view = await port.server.app.agents.get(agent.agent_id)
        assert [gpu.index for gpu in view.capacity.gpus] == [0, 1]
        await port.server.submit(a_new_task(resources=Resources(gpu_count=2)))
        (order,) = (await told(call, "assign")).assignments
        assert list(order.gpu_indexes) == [0, 1]


@pytest.mark.parametrize("epoch", [2**63 - 1, -(2**63)])
async def test_an_epoch_from_nowhere_does_not_lock_the_agent_out(port: Port, agent: Wired, epoch: int) -> None:
    async with agent.session(last_epoch=epoch) as (_, first):
        pass
    async with agent.session(last_epoch=epoch) as (_, second):
        assert second.epoch > first.epoch


async def test_text_of_an_agent_that_no_column_takes_is_cleaned(port: Port, agent: Wired) -> None:
    odd = {
        "facts": {"os": "a\0b"},
        "labels": {"k": "\0"},
        "isolation": "x\0",
        "version": "\0" * 99,
        "boot_id": "b\0",
        "supervisor_id": "\0",
    }
    async with agent.session(**odd):
        view = await port.server.app.agents.get(agent.agent_id)
        assert (view.facts, view.isolation) == ({"os": "ab"}, "x")


async def test_a_protocol_of_another_time_is_refused(port: Port, agent: Wired) -> None:
    call = agent.stub.Session(metadata=bearer(agent.token))
    await call.write(agent.hello(protocol=99))
    assert await ends_with(call) == (grpc.StatusCode.FAILED_PRECONDITION, "VERSION_UNSUPPORTED")


EXTREME: dict[str, dict[str, Any]] = {
    "times": {"started_ago": {"seconds": 2**62}, "ended_ago": {"seconds": -(2**62)}},
    "usage": {"outcome": {"kind": 1, "exit_code": 0, "cpu_time": {"seconds": 2**62}, "max_memory_bytes": 2**64 - 1}},
    "words": {"outcome": {"kind": 1, "exit_code": 0, "message": "a\0b" * 5000}},
    "signal": {"outcome": {"kind": 2, "signal": 2**31 - 1}},
    "kind": {"outcome": {"kind": 99}},
    "no outcome": {"outcome": None},
}
WRONG_REPORTS: dict[str, dict[str, Any]] = {
    "state": {"state": 99},
    "log of no stream": {"logs": [wire.LogEnd(stream=0, total_bytes=1)]},
    "log twice": {"logs": [wire.LogEnd(stream=OUT, total_bytes=1), wire.LogEnd(stream=OUT, total_bytes=1)]},
    "log of negative length": {"logs": [wire.LogEnd(stream=OUT, total_bytes=-1)]},
}


async def test_an_end_is_stored_whatever_is_odd_about_it(port: Port, agent: Wired) -> None:
    async with agent.session() as (call, _):
        for seq, (what, changes) in enumerate(EXTREME.items(), start=1):
            (task_id,) = await port.server.submit(a_new_task())
            (order,) = (await told(call, "assign")).assignments
            await call.write(report(seq, order, ENDED, **changes))
            assert (await told(call, "report_ack")).seq == seq, what
            details = await port.server.app.tasks.get(task_id)
            # What is stored of it must also be possible to show.
            assert task_details(details).attempts[0].state == ENDED, what
            await port.server.cancel(task_id)


async def test_a_report_that_cannot_be_right_ends_the_session_with_its_field(agent: Wired) -> None:
    for what, changes in WRONG_REPORTS.items():
        async with agent.session() as (call, _):
            await call.write(report(1, wire.Assignment(fence=1, task_id=1), ENDED, **changes))
            assert await ends_with(call) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT_FIELD"), what


async def pushed(output: Any) -> None:
    """Sends something of the first session, and reads the answer: the stream is open on both sides."""
    piece = wire.LogChunk(fence=4711, stream=OUT, length=1, codec=1, data=b"x")
    await output.write(wire.PushLogsRequest(epoch=1, chunks=[piece]))
    assert await asyncio.wait_for(output.read(), 20) is not grpc.aio.EOF


REMOVED = (grpc.StatusCode.UNAUTHENTICATED, "AGENT_REMOVED")


async def test_every_stream_of_a_removed_agent_ends_and_its_token_is_good_no_more(port: Port, agent: Wired) -> None:
    async with agent.session() as (call, _), agent.output() as first, agent.output() as second:
        for output in (first, second):
            await pushed(output)
        await port.server.app.removal.remove(agent.agent_id, ONCE, HowToRemove())
        assert [await ends_with(each) for each in (call, first, second)] == [REMOVED] * 3
    again = agent.stub.Session(metadata=bearer(agent.token))
    await again.write(agent.hello())
    assert await ends_with(again) == REMOVED


async def test_streams_end_within_five_seconds_of_a_removal_on_another_server(port: Port, agent: Wired) -> None:
    async with agent.session() as (call, _), agent.output() as output:
        await pushed(output)
        # What the other server's commit does.
        await port.server.database.fetch("revoke_agent", id=agent.agent_id, now=None)
        async with asyncio.timeout(5):
            assert await ends_with(call) == REMOVED
            assert await ends_with(output) == REMOVED


async def test_a_server_that_stops_asks_agents_to_move(port: Port, agent: Wired) -> None:
    async with agent.session() as (call, _):
        stopping = asyncio.get_running_loop().create_task(port.listening.stop(5))
        assert (await told(call, "reconnect")).within.ToTimedelta() == timedelta(seconds=1)
        call.cancel()
        await stopping


def test_many_agents_take_longer_to_move_than_few() -> None:
    assert [moving_seconds(agents) for agents in (0, 1, 200, 2000)] == [1.0, 1.0, 1.0, 10.0]


def report(seq: int, order: Any, reached: Any, **changes: Any) -> wire.AgentMessage:
    """A report on one attempt; an end is a success unless said otherwise."""
    fields: dict[str, Any] = {"fence": order.fence, "task_id": order.task_id, "state": reached}
    if reached == ENDED:
        fields["outcome"] = {"kind": int(OutcomeKind.EXITED), "exit_code": 0}
    return wire.AgentMessage(report=wire.Report(seq=seq, attempts=[wire.AttemptReport(**{**fields, **changes})]))
