"""One session after the other, for as long as the agent lives. Backs off, never gives up.

Joins when it has no number yet, finds the server anew each time, and hands each session what it needs. Next:
`session.py` for what happens inside one.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import structlog

from styx import failpoints
from styx.agent.v1 import agent_service_pb2 as wire
from styx.agent.v1.agent_service_pb2_grpc import AgentServiceStub
from styx.discovery import Endpoint, discover
from styx.errors import StyxError
from styx.rotation import Rotation
from styx_agent import clock, codec, ids
from styx_agent.calls import SessionOver
from styx_agent.config import Settings
from styx_agent.errors import AgentError, BadSettings, JoinRefused
from styx_agent.facts import Machine
from styx_agent.journal import Journal
from styx_agent.ledger import Ledger
from styx_agent.session import ReconnectAsked, Session
from styx_agent.supervisor_client import SupervisorClient

log = structlog.get_logger(__name__)

PROTOCOL = 1
_FIRST_WAIT_SECONDS = 2.0
_LONGEST_WAIT_SECONDS = 30.0
_JOIN_SECONDS = 20.0
_GOODBYE_SECONDS = 3.0
_CHANNEL_OPTIONS = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.enable_retries", 0),
    # A channel of its own for each session, so that an earlier failure does not make it wait.
    ("grpc.use_local_subchannel_pool", 1),
)


class Link:
    """The agent's side of all sessions."""

    def __init__(
        self, settings: Settings, machine: Machine, *, journal: Journal, ledger: Ledger, supervisor: SupervisorClient
    ) -> None:
        self._settings = settings
        self._machine = machine
        ledger.capacity = codec.room(machine)
        self._journal = journal
        self._ledger = ledger
        self._supervisor = supervisor
        self._rotation = Rotation(settings.server_urls)
        self._session: Session | None = None
        self._leaving = False
        self._draining = False
        self._left = asyncio.Event()
        self.version = _version()

    async def run(self) -> None:
        """Holds sessions until `leave`.

        Raises:
            AgentError: going on makes no sense.
        """
        failures = 0
        try:
            while not self._leaving:
                url = self._rotation.order()[0]
                opened = False
                # The next of several servers is tried as soon as the first; waits grow when all have been tried.
                pause = ids.within(_wait_bound(failures // len(self._rotation.places)))
                try:
                    opened = await self._once(url)
                except ReconnectAsked as asked:
                    log.info("reconnect_asked", within_seconds=asked.within_seconds)
                    opened, pause = True, ids.within(asked.within_seconds)
                except AgentError:
                    raise
                except (StyxError, SessionOver) as error:
                    opened = self._session is not None and self._session.is_open
                    log.warning("session_lost", server=url, reason=str(error), wait_seconds=round(pause, 1))
                except Exception:  # a bug in one session must not end the agent
                    log.exception("session_failed")
                self._session = None
                self._rotation.failed(url)
                failures = 0 if opened else failures + 1
                if not self._leaving:
                    await clock.sleep(pause)
        finally:
            self._left.set()

    @property
    def is_connected(self) -> bool:
        """Whether a session is open."""
        return self._session is not None and self._session.is_open

    def set_draining(self, draining: bool) -> None:
        """Asks for no new work, in this session and in those that follow; or for work again."""
        self._draining = draining
        if self._session is not None:
            self._session.set_draining(draining)

    async def leave(self, reason: str) -> None:
        """Says Goodbye, if anybody listens."""
        self._leaving = True
        if self._session is not None and self._session.is_open:
            self._session.leave(reason)
            await clock.wait_for_event(self._left, _GOODBYE_SECONDS)

    async def _once(self, url: str) -> bool:
        """One session; true when it ended because we left."""
        await self._supervisor.ready.wait()
        endpoint = await asyncio.to_thread(discover, url)
        # Before anything is sent: a stranger must not learn our secret.
        self._journal.check_deployment(endpoint.deployment_id)
        async with _channel(endpoint) as channel:
            stub: Any = AgentServiceStub(channel)
            if not self._journal.identity.agent_id:
                await self._join(stub)
            identity = self._journal.identity
            self._session = Session(
                stub,
                (("authorization", f"Bearer {identity.token}"),),
                ledger=self._ledger,
                journal=self._journal,
                data_dir=self._settings.data_dir,
                orders=codec.OrderWriter(identity.agent_id, has_gpus=bool(self._machine.gpus)),
            )
            self._session.draining = self._draining
            self._session.may_move = len(self._rotation.places) > 1
            await self._session.run(self._hello())
        return True

    def _hello(self) -> wire.Hello:
        identity, ledger = self._journal.identity, self._ledger
        now = clock.boottime_micros()
        has = {wire.FEATURE_LOG_ZSTD: True, wire.FEATURE_CGROUP: ledger.cgroup, wire.FEATURE_QUEUE: ledger.queues}
        return wire.Hello(
            agent_id=identity.agent_id,
            boot_id=ledger.supervisor_boot_id,
            supervisor_id=ledger.supervisor_id,
            last_epoch=identity.last_epoch,
            version=self.version,
            protocol=PROTOCOL,
            features=[feature for feature, there in has.items() if there],
            capacity=codec.capacity(self._machine),
            labels=self._settings.labels,
            facts=self._machine.facts,
            isolation=ledger.isolation,
            attempts=[codec.held_attempt(held, now) for held in ledger.all()],
            draining=self._draining,
        )

    async def _join(self, stub: Any) -> None:
        if not self._settings.join_token:
            raise BadSettings(
                "this agent has not joined yet and has no join token; make one with `styx agent join` "
                "and pass it with --join-token-file FILE or STYX_JOIN_TOKEN"
            )
        request = wire.JoinRequest(
            join_token=self._settings.join_token,
            name=self._settings.name,
            key_digest=self._journal.identity.key_digest,
            version=self.version,
        )
        try:
            response = await stub.Join(request, timeout=_JOIN_SECONDS)
        except grpc.aio.AioRpcError as error:
            details = error.details() or error.code().name
            if error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.INVALID_ARGUMENT):
                raise JoinRefused(
                    f"the server refuses the join token: {details}; make a new one with `styx agent join`"
                ) from None
            raise SessionOver(details, error.code()) from None
        await failpoints.reach("link.join.answered")
        self._journal.joined(agent_id=response.agent_id, deployment_id=response.deployment_id)
        log.info("joined", agent_id=f"a{response.agent_id}", deployment_id=response.deployment_id)


def _wait_bound(rounds: int) -> float:
    """Seconds: the most to wait after that many rounds in which no server opened a session."""
    return min(_FIRST_WAIT_SECONDS * 2.0 ** min(rounds, 10), _LONGEST_WAIT_SECONDS)


def _channel(endpoint: Endpoint) -> grpc.aio.Channel:
    if endpoint.tls:
        return grpc.aio.secure_channel(endpoint.grpc_address, grpc.ssl_channel_credentials(), options=_CHANNEL_OPTIONS)
    return grpc.aio.insecure_channel(endpoint.grpc_address, options=_CHANNEL_OPTIONS)


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("styx-control")
    except metadata.PackageNotFoundError:
        return "0+unknown"
