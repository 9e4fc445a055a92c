"""What an agent hears while the database is away: no ack, and signs of life, so that it keeps its stream."""

from __future__ import annotations

import asyncio

import grpc

from styx.agent.v1 import agent_service_pb2 as wire
from styx_server.services.budget import Budget
from tests.services.test_outage import no_database
from tests.support.server import started
from tests.support.until import soon
from tests.transport.conftest import Port
from tests.transport.wired import joined, told


def beat(seq: int) -> wire.AgentMessage:
    return wire.AgentMessage(heartbeat=wire.Heartbeat(seq=seq))


async def test_a_session_stays_open_and_is_told_so_and_only_the_newest_beat_is_acked(port: Port) -> None:
    agent = await joined(port)
    async with agent.session() as (call, _):
        async with no_database(port.server):
            await call.write(beat(1))
            lines = port.server.lines
            await soon(lambda: any(line["event"] == "flush_postponed" for line in lines), "the beat waits")
            for seq in range(2, 6):
                await call.write(beat(seq))
                sign = await asyncio.wait_for(call.read(), 20)
                assert sign is not grpc.aio.EOF
                assert sign.WhichOneof("message") is None
        acked = []
        while not acked or acked[-1] < 5:
            message = await asyncio.wait_for(call.read(), 30)
            if message.WhichOneof("message") == "heartbeat_ack":
                acked.append(message.heartbeat_ack.seq)
        assert acked == [1, 5]


async def test_output_that_waits_has_a_bound_and_arrives_whole(port: Port) -> None:
    piece = bytes(range(256)) * 1024
    room = 4 * len(piece)
    port.server.app.intake.budget = Budget(room, "output")
    agent = await joined(port)
    async with agent.session() as (call, welcome), agent.output() as output:
        await port.server.submit()
        (order,) = (await told(call, "assign")).assignments

        async def push(count: int) -> None:
            for number in range(count):
                offset = number * len(piece)
                part = wire.LogChunk(fence=order.fence, stream=1, offset=offset, length=len(piece), codec=1, data=piece)
                await output.write(wire.PushLogsRequest(epoch=welcome.epoch, chunks=[part]))

        async with no_database(port.server):
            pushing = started(push(20))
            budget = port.server.app.intake.budget
            await soon(lambda: bool(budget._queue), "output waits for room")
            assert budget.used <= room
        stored = 0
        while stored < 20 * len(piece):
            answer = await asyncio.wait_for(output.read(), 30)
            stored = max(ack.durable_offset for ack in answer.acks)
            assert budget.used <= room
        await pushing
    await soon(lambda: budget.used == 0, "all room is given back")


async def test_a_stream_that_breaks_while_its_output_waits_gives_its_room_back(port: Port) -> None:
    agent = await joined(port)
    budget = port.server.app.intake.budget
    async with agent.session() as (call, welcome):
        await port.server.submit()
        (order,) = (await told(call, "assign")).assignments
        async with no_database(port.server):
            async with agent.output() as output:
                part = wire.LogChunk(fence=order.fence, stream=1, length=5, codec=1, data=b"hello")
                await output.write(wire.PushLogsRequest(epoch=welcome.epoch, chunks=[part]))
                await soon(lambda: budget.used > 0, "output waits")
            await soon(lambda: budget.used == 0, "its room is given back")
