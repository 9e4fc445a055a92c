"""The agents' service: one stream for control, one for output, and the way in. Next: `session_stream.py`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final
from uuid import UUID

import structlog
from grpc.aio import EOF

from styx import failpoints
from styx.agent.v1 import agent_service_pb2 as wire
from styx.agent.v1 import agent_service_pb2_grpc
from styx_server.clock import Clock
from styx_server.core.errors import InvalidRequest, Superseded, Violation
from styx_server.core.lease import USUAL_TERMS, LeaseTerms
from styx_server.core.limits import MAX_NAME_CHARS
from styx_server.core.session import LogStream
from styx_server.core.task import Fence
from styx_server.services.access import removed_agent
from styx_server.services.agents import Agents
from styx_server.services.budget import Budget
from styx_server.services.log_intake import Append, LogIntake, Stored
from styx_server.services.log_streams import Chunk, StreamKey
from styx_server.services.reports import Reports
from styx_server.services.session_registry import Session as OpenSession
from styx_server.services.session_registry import SessionRegistry
from styx_server.services.sessions import Sessions
from styx_server.transport import agent_codec
from styx_server.transport.auth import caller_of_call
from styx_server.transport.codec import duration, timestamp
from styx_server.transport.session_stream import Context, Outbox, SessionStream

_log = structlog.get_logger()

_MOVES_PER_SECOND: Final = 200
MAX_REQUEST_BYTES: Final = 1 << 20
"""Raw bytes in one request of PushLogs."""
_WINDOW_BYTES: Final = 8 << 20
"""Raw bytes of one agent that are not acked, as many as it sends unasked; past it, its stream is not read."""
_CHUNK_OVERHEAD: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentUseCases:
    """Everything that the agents' service can ask for."""

    sessions: Sessions
    registry: SessionRegistry
    reports: Reports
    intake: LogIntake
    agents: Agents


class AgentService(agent_service_pb2_grpc.AgentServiceServicer):
    """`styx.agent.v1.AgentService`; the comments in the proto are its reference."""

    def __init__(
        self,
        use: AgentUseCases,
        clock: Clock,
        *,
        deployment_id: UUID,
        replica_id: UUID,
        terms: LeaseTerms = USUAL_TERMS,
    ) -> None:
        self._use = use
        self._clock = clock
        self._deployment_id = str(deployment_id)
        self._replica_id = str(replica_id)
        self._terms = terms
        self._outboxes: set[Outbox] = set()

    async def Join(  # noqa: N802
        self, request: wire.JoinRequest, context: Context
    ) -> wire.JoinResponse:
        """Makes a stranger an agent."""
        del context
        if len(request.key_digest) != 32:
            raise InvalidRequest([Violation(field="key_digest", description="must be a SHA-256, 32 bytes")])
        name = _printable(request.name)[:MAX_NAME_CHARS] or "agent"
        version = _printable(request.version)[:50]
        agent_id = await self._use.agents.join(request.join_token, name, request.key_digest, version)
        await failpoints.reach("server.join.committed")
        _log.info("agent_joined", agent=agent_id, name=name)
        return wire.JoinResponse(agent_id=agent_id, deployment_id=self._deployment_id)

    async def Session(self, requests: Any, context: Context) -> None:  # noqa: N802
        """One session, from Hello to its end."""
        del requests
        outbox = Outbox(context, self._introduction)
        self._outboxes.add(outbox)
        try:
            stream = SessionStream(context, outbox, self._use.sessions, self._use.reports, self._clock)
            await stream.serve(caller_of_call.get().agent_id)
        finally:
            self._outboxes.discard(outbox)

    async def PushLogs(self, requests: Any, context: Context) -> None:  # noqa: N802
        """Output of attempts of one agent; acks come back in order while more is read."""
        del requests
        agent_id = caller_of_call.get().agent_id
        room = Budget(_WINDOW_BYTES, "output")
        pushed: asyncio.Queue[_Pushed | None] = asyncio.Queue()
        async with asyncio.TaskGroup() as group:
            group.create_task(_write_acks(context, pushed, room))
            watch = group.create_task(_until_removed(self._use.registry.get(agent_id)))
            while (request := await context.read()) is not EOF:
                session = self._use.registry.get(agent_id)
                if session is None or session.epoch != request.epoch:
                    raise Superseded("the output belongs to a session that is over; open a new one first")
                weight = _weight(request)
                await room.take(weight)
                appends, unknown = _appends(session, request, self._clock.now())
                size = sum(append.size for append in appends)
                await self._use.intake.budget.take(size)
                work = group.create_task(self._use.intake.append_all(appends))
                work.add_done_callback(partial(_give_back, self._use.intake.budget, size))
                pushed.put_nowait(_Pushed(weight=weight, appends=appends, unknown=unknown, work=work))
            watch.cancel()
            pushed.put_nowait(None)

    def reconnect_all(self) -> None:
        """Asks every agent to move to another server; the more there are, the longer they take turns."""
        within_seconds = moving_seconds(len(self._outboxes))
        for outbox in self._outboxes:
            outbox.send(wire.ServerMessage(reconnect=wire.Reconnect(within=duration(within_seconds))))

    def _introduction(self) -> wire.Welcome:
        return wire.Welcome(
            deployment_id=self._deployment_id,
            replica_id=self._replica_id,
            server_time=timestamp(self._clock.now()),
            heartbeat_interval=duration(self._terms.heartbeat_seconds),
            start_window=duration(self._terms.start_window_seconds),
            features=[wire.FEATURE_LOG_ZSTD],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pushed:
    """What came with one request, on its way into the store."""

    weight: int
    appends: list[Append]
    unknown: list[wire.LogAck]
    work: asyncio.Task[list[Stored]]


def _weight(request: wire.PushLogsRequest) -> int:
    """What a request counts towards the agent's window.

    Raises:
        InvalidRequest: it is more than may come at a time.
    """
    raw_bytes = sum(max(0, message.length) for message in request.chunks)
    if raw_bytes > MAX_REQUEST_BYTES:
        text = f"are {raw_bytes:,} bytes unpacked, at most {MAX_REQUEST_BYTES:,} are taken at a time"
        raise InvalidRequest([Violation(field="chunks", description=text)])
    return min(raw_bytes + _CHUNK_OVERHEAD * len(request.chunks), _WINDOW_BYTES)


def _appends(
    session: OpenSession, request: wire.PushLogsRequest, now: datetime
) -> tuple[list[Append], list[wire.LogAck]]:
    """What is to be stored, by stream, and acks for what nobody wants."""
    grouped: dict[tuple[int, int], list[Chunk]] = {}
    for message in request.chunks:
        if message.stream in (1, 2):
            grouped.setdefault((message.fence, message.stream), []).append(agent_codec.chunk(message, now))
    appends: list[Append] = []
    unknown: list[wire.LogAck] = []
    for (fence, stream), chunks in grouped.items():
        known = session.known.get(Fence(fence))
        if known is None:
            unknown.append(wire.LogAck(fence=fence, stream=stream, unknown=True))  # type: ignore[arg-type]
            continue
        key = StreamKey(known.task_id, known.attempt, LogStream(stream))
        appends.append(Append(key=key, fence=Fence(fence), chunks=tuple(chunks)))
    return appends, unknown


def _give_back(budget: Budget, size: int, _: asyncio.Task[list[Stored]]) -> None:
    budget.give(size)


def moving_seconds(agents: int) -> float:
    """How long so many agents may take to move, so that the other servers are not run over."""
    return max(1.0, agents / _MOVES_PER_SECOND)


def _printable(text: str) -> str:
    return "".join(char for char in text if char.isprintable())


async def _until_removed(session: OpenSession | None) -> None:
    """Ends the stream that it belongs to when the agent is removed: an idle stream would notice nothing."""
    if session is not None:
        await session.removed.wait()
        raise removed_agent(session.agent_id)


async def _write_acks(context: Context, pushed: asyncio.Queue[_Pushed | None], room: Budget) -> None:
    """Answers each request once all of it is stored; only then there is room for more."""
    while (item := await pushed.get()) is not None:
        acks = [
            wire.LogAck(
                fence=append.fence,
                stream=int(append.key.stream),  # type: ignore[arg-type]
                durable_offset=stored.end,
                rewind=stored.rewind,
            )
            for append, stored in zip(item.appends, await item.work, strict=True)
        ]
        await context.write(wire.PushLogsResponse(acks=acks + item.unknown))
        await failpoints.reach("server.log.acked")
        room.give(item.weight)
