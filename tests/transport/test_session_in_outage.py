"""What an agent hears while the database is away: no ack, and signs of life, so that it keeps its stream."""

from __future__ import annotations

import asyncio

import grpc

from styx.agent.v1 import agent_service_pb2 as wire
from tests.services.test_outage import no_database
from tests.support.until import soon
from tests.transport.conftest import Port
from tests.transport.test_agent_streams import joined


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
