"""An agent that does nothing but say when an order arrived: on the clock of whoever measures, in the same process.

Speaks just enough of the session protocol to be given work: it joins, says Hello, sends beats, and reports each attempt
as ended as soon as it has it.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
from google.protobuf.duration_pb2 import Duration

from benchmarks.stack import Stack
from styx.agent.v1 import agent_service_pb2 as wire
from styx.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from styx.v1 import agents_pb2, tasks_pb2
from styx_agent.link import PROTOCOL

_BEAT_SECONDS = 5.0


class Receiver:
    """An open session."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._outgoing: asyncio.Queue[wire.AgentMessage] = asyncio.Queue()
        self._received: asyncio.Queue[float] = asyncio.Queue()
        self._settled = asyncio.Event()
        self._ready = asyncio.Event()
        self._reports = 0

    async def receipt(self) -> float:
        """When the next order came, on `time.perf_counter`."""
        return await self._received.get()

    async def settled(self) -> None:
        """Returns when the server has stored the end of all that was ordered."""
        await self._settled.wait()

    async def ready(self) -> None:
        """Returns when the server may give it work."""
        await self._ready.wait()

    async def run(self, hello: wire.Hello) -> None:
        """Holds the session until it is cancelled."""
        await self._call.write(wire.AgentMessage(hello=hello))
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read())
            # One writer: two writes at a time are an error in gRPC.
            group.create_task(self._write())
            group.create_task(self._beat())

    async def _read(self) -> None:
        while True:
            message = await self._call.read()
            if message is grpc.aio.EOF:
                raise RuntimeError(f"the server ended the session: {await self._call.details()}")
            self._take(message, time.perf_counter())

    def _take(self, message: wire.ServerMessage, now: float) -> None:
        match message.WhichOneof("message"):
            case "assign":
                self._settled.clear()
                self._outgoing.put_nowait(self._report(message.assign))
                for _ in message.assign.assignments:
                    self._received.put_nowait(now)
            case "report_ack":
                if message.report_ack.seq == self._reports:
                    self._settled.set()
            case "heartbeat_ack":
                self._ready.set()

    def _report(self, assign: wire.Assign) -> wire.AgentMessage:
        self._reports += 1
        ended = wire.Report(seq=self._reports)
        for order in assign.assignments:
            attempt = ended.attempts.add(fence=order.fence, task_id=order.task_id, state=tasks_pb2.Attempt.ENDED)
            attempt.started_ago.CopyFrom(Duration())
            attempt.ended_ago.CopyFrom(Duration())
            attempt.outcome.kind = tasks_pb2.Outcome.EXITED
            attempt.outcome.exit_code = 0
        return wire.AgentMessage(report=ended)

    async def _write(self) -> None:
        while True:
            await self._call.write(await self._outgoing.get())

    async def _beat(self) -> None:
        seq = 0
        while True:
            seq += 1
            self._outgoing.put_nowait(wire.AgentMessage(heartbeat=wire.Heartbeat(seq=seq)))
            await asyncio.sleep(_BEAT_SECONDS)


@asynccontextmanager
async def receiving(stack: Stack) -> AsyncIterator[Receiver]:
    """A receiver with one slot, ready for work, for the length of a block; in a stack without real agents."""
    async with stack.client() as client, grpc.aio.insecure_channel(stack.grpc_address()) as channel:
        token = (await client.create_join_token()).token
        stub: Any = AgentServiceStub(channel)
        secret = secrets.token_hex(32)
        digest = hashlib.sha256(secret.encode()).digest()
        joined = await stub.Join(wire.JoinRequest(join_token=token, name="receiver", key_digest=digest))
        bearer = f"Bearer styx_agent_{joined.agent_id}_{secret}"
        receiver = Receiver(stub.Session(metadata=(("authorization", bearer),)))
        async with asyncio.TaskGroup() as group:
            running = group.create_task(receiver.run(_hello(joined.agent_id)))
            await receiver.ready()
            yield receiver
            running.cancel()


def _hello(agent_id: int) -> wire.Hello:
    return wire.Hello(
        agent_id=agent_id,
        boot_id="boot",
        supervisor_id="supervisor",
        version="receiver",
        protocol=PROTOCOL,
        capacity=agents_pb2.Capacity(cpus=1, memory_bytes=1 << 36, disk_bytes=1 << 40),
        isolation="nothing is run",
    )
