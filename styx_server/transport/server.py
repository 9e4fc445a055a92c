"""The gRPC port: services, the one door, and the options that were measured to matter."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import grpc
from grpc_channelz.v1 import channelz
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from styx.agent.v1 import agent_service_pb2, agent_service_pb2_grpc
from styx.v1 import styx_service_pb2, styx_service_pb2_grpc
from styx_server.transport.agent_service import AgentService
from styx_server.transport.auth import Guard
from styx_server.transport.styx_service import StyxService

MAX_MESSAGE_BYTES: Final = 4 << 20

# Without ping_timeout_ms a stopped peer is noticed only after a minute; without raised pending requests a storm of
# reconnecting agents is refused; with so_reuseport a forgotten second process silently takes half of the calls.
_OPTIONS: Final = [
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", 16 << 10),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.server.max_pending_requests", 20_000),
    ("grpc.server.max_pending_requests_hard_limit", 50_000),
]

SERVICES: Final = (
    styx_service_pb2.DESCRIPTOR.services_by_name["StyxService"].full_name,
    agent_service_pb2.DESCRIPTOR.services_by_name["AgentService"].full_name,
    health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
    reflection.SERVICE_NAME,
)


class GrpcServer:
    """The gRPC side of one server process."""

    def __init__(self, guard: Guard, public: StyxService, agents: AgentService) -> None:
        self._server = grpc.aio.server(interceptors=[guard], options=_OPTIONS)
        self._health = health_aio.HealthServicer()
        self._agents = agents
        styx_service_pb2_grpc.add_StyxServiceServicer_to_server(public, self._server)
        agent_service_pb2_grpc.add_AgentServiceServicer_to_server(agents, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(SERVICES, self._server)
        channelz.add_channelz_servicer(self._server)

    async def start(self, host: str, port: int, tls: tuple[Path, Path] | None) -> int:
        """Listens; returns the port.

        Raises:
            RuntimeError: the port is taken, or the address is not this machine's.
        """
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if tls is None:
            bound = self._server.add_insecure_port(address)
        else:
            pair = (tls[1].read_bytes(), tls[0].read_bytes())
            bound = self._server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
        await self._server.start()
        return int(bound)

    async def set_serving(self, serving: bool) -> None:
        """Answers the standard health service."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for service in ("", *SERVICES):
            await self._health.set(service, status)

    async def stop(self, grace_seconds: float) -> None:
        """Stops in order: says so to agents, lets short calls finish, then ends what is left."""
        # Streams are told nothing by stop(): agents must hear it first.
        self._agents.reconnect_all()
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_seconds)
