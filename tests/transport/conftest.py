"""A server with its gRPC port open on loopback, and channels to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc
import pytest

from styx_server.embedded import PostgresAddress
from styx_server.transport.server import GrpcServer
from tests.support.server import Server, running

ADMIN_TOKEN = "styx_admin_for_tests"


@dataclass(frozen=True)
class Port:
    """An open port, and the server behind it."""

    server: Server
    channel: grpc.aio.Channel
    listening: GrpcServer


@pytest.fixture
async def port(database: PostgresAddress) -> AsyncIterator[Port]:
    """A server that listens."""
    async with running(database) as server:
        await server.app.access.ensure_admin(ADMIN_TOKEN)
        listening = server.app.grpc_server()
        number = await listening.start("127.0.0.1", 0, None)
        await listening.set_serving(True)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{number}") as channel:
            yield Port(server, channel, listening)
        await listening.stop(0)


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """Metadata with a token."""
    return (("authorization", f"Bearer {token}"),)
