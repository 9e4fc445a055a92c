"""The agents' streams of output on a real port: what is taken, what is refused, and how much may wait."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from styx.agent.v1 import agent_service_pb2 as wire
from styx.v1 import tasks_pb2
from tests.support.builders import a_new_task
from tests.support.server import started
from tests.support.until import soon
from tests.transport.conftest import Port
from tests.transport.wired import Wired, ends_with, joined, told

OUT = tasks_pb2.STDOUT


@pytest.fixture
async def agent(port: Port) -> Wired:
    """An agent that has joined through the port."""
    return await joined(port)


async def test_output_of_another_epoch_is_refused(port: Port, agent: Wired) -> None:
    async with agent.session() as (_, welcome), agent.output() as output:
        await output.write(wire.PushLogsRequest(epoch=welcome.epoch + 1))
        assert await ends_with(output) == (grpc.StatusCode.ABORTED, "SESSION_SUPERSEDED")
    async with agent.output() as output:
        await output.write(wire.PushLogsRequest(epoch=welcome.epoch))
        assert await ends_with(output) == (grpc.StatusCode.ABORTED, "SESSION_SUPERSEDED")


async def test_output_of_an_attempt_that_is_not_the_agents_is_not_wanted(port: Port, agent: Wired) -> None:
    async with agent.session() as (_, welcome), agent.output() as output:
        piece = wire.LogChunk(fence=4711, stream=OUT, length=1, codec=1, data=b"x")
        await output.write(wire.PushLogsRequest(epoch=welcome.epoch, chunks=[piece]))
        (ack,) = (await output.read()).acks
        assert (ack.fence, ack.unknown) == (4711, True)
    assert await port.server.rows("select 1 from log_chunks") == []


async def test_a_chunk_that_cannot_be_right_is_refused(agent: Wired) -> None:
    wrong: list[dict[str, Any]] = [
        {"length": 256 * 1024 + 1},
        {"length": -1},
        {"offset": -1, "length": 1, "data": b"x"},
    ]
    async with agent.session() as (_, welcome):
        for piece in wrong:
            async with agent.output() as output:
                chunk = wire.LogChunk(fence=1, stream=OUT, codec=1, **piece)
                await output.write(wire.PushLogsRequest(epoch=welcome.epoch, chunks=[chunk]))
                assert await ends_with(output) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT_FIELD"), piece


async def test_ages_that_reach_beyond_time_do_no_harm(port: Port, agent: Wired) -> None:
    async with agent.session() as (call, welcome), agent.output() as output:
        await port.server.submit(a_new_task())
        (order,) = (await told(call, "assign")).assignments
        chunk = wire.LogChunk(
            fence=order.fence,
            stream=OUT,
            length=2,
            codec=1,
            data=b"ab",
            time_offsets=[0, 1],
            time_ages_micros=[2**62, -5],
        )
        await output.write(wire.PushLogsRequest(epoch=welcome.epoch, chunks=[chunk]))
        assert (await output.read()).acks[0].durable_offset == 2


@pytest.mark.parametrize(("size", "requests", "waiting"), [(1, 200, 199), (256 << 10, 40, 30)])
async def test_as_many_requests_wait_for_a_commit_as_are_in_the_window_of_bytes(
    port: Port, agent: Wired, size: int, requests: int, waiting: int
) -> None:
    intake = port.server.app.intake

    async def push(output: Any, fence: int, epoch: int) -> None:
        for number in range(requests):
            piece = wire.LogChunk(fence=fence, stream=OUT, offset=number * size, length=size, codec=1, data=bytes(size))
            await output.write(wire.PushLogsRequest(epoch=epoch, chunks=[piece]))

    async with agent.session() as (call, welcome), agent.output() as output:
        await port.server.submit(a_new_task())
        (order,) = (await told(call, "assign")).assignments
        with port.server.database.held("advance_streams"):
            pushing = started(push(output, order.fence, welcome.epoch))
            await soon(lambda: intake.commits.depth >= waiting, "what is in the window")
            assert (intake.commits.depth + 1) * size <= 8 << 20
        while (await output.read()).acks[-1].durable_offset < requests * size:
            pass
        await pushing
