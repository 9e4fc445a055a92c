"""The link with several addresses: which one it uses, and when it leaves one for another."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration

from styx.agent.v1 import agent_service_pb2 as wire
from tests.support.agent_process import AgentProcess
from tests.support.scripted_server import ScriptedServer, listening
from tests.support.supervisor_driver import sleepers
from tests.support.until import soon


@contextmanager
def _closed_port() -> Iterator[int]:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@asynccontextmanager
async def _agent(data_dir: Path, *ports: int) -> AsyncIterator[AgentProcess]:
    agent = AgentProcess(data_dir, *ports)
    agent.start()
    try:
        yield agent
    finally:
        await agent.close()


def _calm_service() -> ScriptedServer:
    """One whose agents leave only when they are told to, however busy the machine is."""
    service = ScriptedServer()
    service.beat_seconds = 10.0
    return service


async def test_a_dead_address_is_passed_over(data_dir: Path) -> None:
    service = _calm_service()
    with _closed_port() as dead:
        async with listening(service) as port, _agent(data_dir, dead, port):
            for count in range(1, 4):
                await soon(lambda count=count: len(service.sessions) == count, "a session")  # type: ignore[misc]
                service.session.cut()


async def test_a_server_that_stops_hands_its_agent_to_another(data_dir: Path, tag: str) -> None:
    service = _calm_service()
    async with AsyncExitStack() as both:
        ports = [await both.enter_async_context(listening(service)) for _ in range(2)]
        async with _agent(data_dir, *ports) as agent:
            await soon(lambda: bool(service.sessions), "a session")
            fence = service.assign(f"sleep {tag}")
            await soon(lambda: service.running(fence), "its start")
            service.session.send(reconnect=wire.Reconnect(within=Duration()))
            await soon(lambda: len(service.sessions) == 2, "a session with the other one")
            await soon(lambda: "session_opened" in agent.log(), "it says so")
            assert [held.fence for held in service.session.hello.attempts] == [fence]
            assert service.sessions[0].port != service.sessions[1].port
            assert len(sleepers(tag)) == 1


@pytest.mark.parametrize("count", [1, 2])
async def test_beats_without_acks_make_it_move_if_it_can(data_dir: Path, count: int) -> None:
    service = ScriptedServer()
    async with AsyncExitStack() as both:
        ports = [await both.enter_async_context(listening(service)) for _ in range(count)]
        async with _agent(data_dir, *ports) as agent:
            await soon(lambda: bool(service.sessions) and len(service.session.beats) > 1, "beats")
            service.ack_beats = False
            if count == 1:
                await soon(lambda: len(service.session.beats) > 12, "beats go on")
                assert len(service.sessions) == 1
                return
            await soon(lambda: len(service.sessions) >= 2, "a session with the other one")
            assert service.sessions[0].port != service.sessions[1].port
            assert "acked neither" in agent.log()
            service.ack_beats = True
            opened = len(service.sessions)
            await soon(lambda: len(service.session.beats) > 12, "beats go on")
            assert len(service.sessions) <= opened + 1
