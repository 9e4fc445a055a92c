"""Many callers at once on a real port: one request a thousand times over, and a database that does not answer."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from styx.v1 import styx_service_pb2 as wire
from styx.v1 import styx_service_pb2_grpc, tasks_pb2
from tests.services.test_outage import no_database
from tests.support.postgres import connected
from tests.support.server import gathered
from tests.transport.conftest import ADMIN_TOKEN, Port, bearer


def submit(port: Port, command: str, request_id: str) -> grpc.aio.UnaryUnaryCall:
    stub = styx_service_pb2_grpc.StyxServiceStub(port.channel)
    request = wire.TaskRequest(spec=tasks_pb2.TaskSpec(command=command), request_id=request_id)
    return stub.SubmitTask(request, metadata=bearer(ADMIN_TOKEN), timeout=60)


async def submitted(port: Port, command: str, request_id: str) -> str:
    """Submits as clients do: a server that is too busy for a thousand at once says when to come back."""
    while True:
        try:
            return (await submit(port, command, request_id)).task_id
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            await asyncio.sleep(retry_delay(error))


def retry_delay(error: grpc.aio.AioRpcError) -> float:
    """After how many seconds a caller is told to come back."""
    status = rpc_status.from_call(error)
    assert status is not None
    retry = error_details_pb2.RetryInfo()
    assert any(detail.Unpack(retry) for detail in status.details)
    return float(retry.retry_delay.ToTimedelta().total_seconds())


async def test_one_request_a_thousand_times_is_one_task_and_a_thousand_equal_answers(port: Port) -> None:
    answers = await gathered([submitted(port, "true", "storm") for _ in range(1000)])
    assert set(answers) == {answers[0]}
    assert len(answers) == 1000
    assert len(await port.server.rows("select 1 from tasks")) == 1


async def test_another_request_under_that_id_is_refused_however_often_it_comes(port: Port) -> None:
    await submit(port, "true", "storm")
    answers = await gathered([submitted(port, "false", "storm") for _ in range(200)])
    assert {answer.code() for answer in answers} == {grpc.StatusCode.ALREADY_EXISTS}
    assert all("storm" in answer.details() for answer in answers)
    assert len(await port.server.rows("select 1 from tasks")) == 1


async def test_every_unavailable_says_when_to_come_back(port: Port) -> None:
    await submit(port, "true", "first")
    async with no_database(port.server):
        answers = await gathered([submit(port, "true", f"r{number}") for number in range(50)])
    assert {answer.code() for answer in answers} == {grpc.StatusCode.UNAVAILABLE}
    assert all(retry_delay(answer) > 0 for answer in answers)


async def test_a_caller_hears_of_a_lock_long_before_it_is_released(port: Port) -> None:
    stub = styx_service_pb2_grpc.StyxServiceStub(port.channel)
    task_id = (await submit(port, "true", "first")).task_id
    async with connected(port.server.address) as other, other.transaction():
        await other.execute("lock table tasks in access exclusive mode")
        calls = [
            stub.GetStatus(wire.StatusRequest(task_id=task_id), metadata=bearer(ADMIN_TOKEN), timeout=60)
            for _ in range(40)
        ]
        answers = await gathered(calls)
        assert {answer.code() for answer in answers} == {grpc.StatusCode.UNAVAILABLE}
        assert all(retry_delay(answer) > 0 for answer in answers)
    again = await stub.GetStatus(wire.StatusRequest(task_id=task_id), metadata=bearer(ADMIN_TOKEN), timeout=60)
    assert again.task_id == task_id


@pytest.mark.parametrize("serving", [True, False])
async def test_the_health_service_follows_the_database(port: Port, serving: bool) -> None:
    health_pb2 = pytest.importorskip("grpc_health.v1.health_pb2")
    stub = pytest.importorskip("grpc_health.v1.health_pb2_grpc").HealthStub(port.channel)
    wanted = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING

    async def told() -> None:
        async with asyncio.timeout(30):
            async for answer in stub.Watch(health_pb2.HealthCheckRequest()):
                if answer.status == wanted:
                    return

    if serving:
        async with no_database(port.server):
            pass
        await told()
    else:
        async with no_database(port.server):
            await told()
