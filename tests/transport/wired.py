"""An agent as a server meets it: through a real channel, with what each of its messages needs."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from styx.agent.v1 import agent_service_pb2 as wire
from styx.agent.v1 import agent_service_pb2_grpc
from styx.v1 import agents_pb2
from styx_server.core.task import AgentId
from styx_server.ids import new_secret
from styx_server.services.agents import NewJoinToken
from tests.support.server import ONCE
from tests.transport.conftest import Port, bearer


@dataclass
class Wired:
    """An agent that speaks through a real channel."""

    port: Port
    agent_id: AgentId
    token: str

    @property
    def stub(self) -> Any:
        return agent_service_pb2_grpc.AgentServiceStub(self.port.channel)

    def hello(self, **changes: Any) -> wire.AgentMessage:
        capacity = agents_pb2.Capacity(cpus=4, memory_bytes=1 << 34, disk_bytes=1 << 34)
        fields = {"agent_id": self.agent_id, "boot_id": "b", "protocol": 1, "version": "0.1.0", "capacity": capacity}
        return wire.AgentMessage(hello=wire.Hello(**{**fields, **changes}))

    @asynccontextmanager
    async def session(self, **changes: Any) -> AsyncIterator[Any]:
        """An open session; the call, and its Welcome already read."""
        call = self.stub.Session(metadata=bearer(self.token))
        await call.write(self.hello(**changes))
        first = await call.read()
        assert first is not grpc.aio.EOF, await call.details()
        assert first.WhichOneof("message") == "welcome"
        try:
            yield call, first.welcome
        finally:
            call.cancel()

    @asynccontextmanager
    async def output(self) -> AsyncIterator[Any]:
        call = self.stub.PushLogs(metadata=bearer(self.token))
        try:
            yield call
        finally:
            call.cancel()


async def told(call: Any, kind: str) -> Any:
    """The next message of a kind; others are passed over."""
    while (message := await asyncio.wait_for(call.read(), 20)) is not grpc.aio.EOF:
        if message.WhichOneof("message") == kind:
            return getattr(message, kind)
    raise AssertionError(f"the session ended: {await call.code()} {await call.details()}")


async def ends_with(call: Any) -> tuple[grpc.StatusCode, str]:
    """How a stream ends: its code, and its stable reason."""
    try:
        while await asyncio.wait_for(call.read(), 20) is not grpc.aio.EOF:
            pass
    except grpc.aio.AioRpcError as error:
        return error.code(), reason_of(error)
    return await call.code(), ""


def reason_of(error: grpc.aio.AioRpcError) -> str:
    info = error_details_pb2.ErrorInfo()
    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        if detail.Unpack(info):
            return str(info.reason)
    return ""


async def joined(port: Port) -> Wired:
    join_token, secret = f"styx_join_{new_secret()}", new_secret()
    wanted = NewJoinToken(token=join_token, max_uses=1, ttl=timedelta(minutes=5), pool="default", labels={})
    await port.server.app.agents.make_join_token(wanted, ONCE)
    answer = await agent_service_pb2_grpc.AgentServiceStub(port.channel).Join(
        wire.JoinRequest(join_token=join_token, name="n", key_digest=hashlib.sha256(secret.encode()).digest())
    )
    assert answer.deployment_id == str(port.server.app.identity.deployment_id)
    return Wired(port, AgentId(answer.agent_id), f"styx_agent_{answer.agent_id}_{secret}")
