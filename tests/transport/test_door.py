"""The one door: every method of every service is in the table, and nobody passes without the right token."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_channelz.v1 import channelz_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_status import rpc_status

from styx.agent.v1 import agent_service_pb2
from styx.v1 import errors_pb2, styx_service_pb2
from styx_server.transport.auth import METHODS, Door
from tests.transport.conftest import ADMIN_TOKEN, Port, bearer

REASONS = frozenset(errors_pb2.ErrorReason.keys())
FILES = (styx_service_pb2, agent_service_pb2, health_pb2, reflection_pb2, channelz_pb2)


def _methods() -> Iterator[tuple[str, bool, bool]]:
    """Every method that the port serves: its name, and which sides stream."""
    for file in FILES:
        for service in file.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                yield f"/{service.full_name}/{method.name}", method.client_streaming, method.server_streaming


ALL = list(_methods())
CLOSED = [each for each in ALL if METHODS.get(each[0]) is not Door.EVERYBODY]


async def _call(channel: grpc.aio.Channel, method: tuple[str, bool, bool], metadata: Any) -> grpc.aio.AioRpcError:
    """Calls with an empty message, which must fail; returns how."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await _answers(channel, method, metadata)
    return failed.value


async def _answers(channel: grpc.aio.Channel, method: tuple[str, bool, bool], metadata: Any) -> None:
    name, streams_in, streams_out = method
    match streams_in, streams_out:
        case False, False:
            await channel.unary_unary(name)(b"", metadata=metadata, timeout=10)
        case False, True:
            async for _ in channel.unary_stream(name)(b"", metadata=metadata, timeout=10):
                pass
        case True, False:
            await channel.stream_unary(name)(iter([b""]), metadata=metadata, timeout=10)
        case _:
            async for _ in channel.stream_stream(name)(iter([b""]), metadata=metadata, timeout=10):
                pass


def _reason(error: grpc.aio.AioRpcError) -> str:
    status = rpc_status.from_call(error)  # type: ignore[arg-type]
    assert status is not None
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            assert info.domain == "styx"
            assert info.reason in REASONS
            return str(info.reason)
    raise AssertionError("the error has no ErrorInfo")


def test_the_table_names_every_method_and_no_other() -> None:
    assert set(METHODS) == {name for name, _, _ in ALL}


def test_only_these_are_open_to_everybody() -> None:
    open_to_all = {name for name, door in METHODS.items() if door is Door.EVERYBODY}
    assert open_to_all == {
        "/styx.agent.v1.AgentService/Join",
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
    }


@pytest.mark.parametrize(
    ("metadata", "word"),
    [
        ((), "no token"),
        (bearer("styx_admin_wrong"), "not known"),
        (bearer("styx_agent_1_wrong"), "not known"),
        (bearer("styx_agent_x"), "not known"),
        (bearer(""), "no token"),
        ((("authorization", f"Basic {ADMIN_TOKEN}"),), "no token"),
        ((("Authorization".lower(), ADMIN_TOKEN),), "no token"),
    ],
)
async def test_nobody_passes_without_a_good_token(port: Port, metadata: Any, word: str) -> None:
    for method in CLOSED:
        error = await _call(port.channel, method, metadata)
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED, method
        assert word in (error.details() or ""), method
        assert _reason(error) == "UNAUTHENTICATED_TOKEN"


async def test_people_may_not_speak_as_agents(port: Port) -> None:
    for method in ALL:
        if METHODS[method[0]] is Door.AGENTS:
            error = await _call(port.channel, method, bearer(ADMIN_TOKEN))
            assert (error.code(), _reason(error)) == (grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_MISSING")


async def test_a_method_that_nobody_named_is_unknown(port: Port) -> None:
    error = await _call(port.channel, ("/styx.v1.StyxService/DropEverything", False, False), bearer(ADMIN_TOKEN))
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_health_answers_without_a_token(port: Port) -> None:
    check = port.channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    answer = await check(health_pb2.HealthCheckRequest(service="styx.v1.StyxService"))
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_a_server_that_stops_says_so(port: Port) -> None:
    port.server.app.health.stopping = True
    error = await _call(port.channel, ("/styx.v1.StyxService/GetServerInfo", False, False), bearer(ADMIN_TOKEN))
    assert (error.code(), _reason(error)) == (grpc.StatusCode.UNAVAILABLE, "SERVER_STOPPING")


async def test_a_message_that_cannot_be_read_does_no_harm(port: Port) -> None:
    call = port.channel.unary_unary("/styx.v1.StyxService/SubmitTask")
    with pytest.raises(grpc.aio.AioRpcError):
        await call(b"\xff\xff\xff", metadata=bearer(ADMIN_TOKEN))
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call(b"x" * (5 << 20), metadata=bearer(ADMIN_TOKEN))
    assert failed.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
