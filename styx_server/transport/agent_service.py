"""The agents' service: one stream for control, one for output, and the way in.

Each stream has one reader and one writer. Reading never waits for the database, so that a beat is never behind a report
that waits for it; what has to wait stands in a bounded queue, and a full one ends the session.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final
from uuid import UUID

import grpc
import structlog

from styx.agent.v1 import agent_service_pb2 as wire
from styx.agent.v1 import agent_service_pb2_grpc
from styx_server.clock import Clock
from styx_server.core.errors import Denied, Exhausted, InvalidRequest, StyxError, Superseded, Violation
from styx_server.core.limits import MAX_NAME_CHARS
from styx_server.core.session import Assignment, AttemptReport, LogStream, StopOrder, Verdict
from styx_server.core.task import AgentId, Fence
from styx_server.services.agents import Agents
from styx_server.services.log_intake import Append, LogIntake, Stored
from styx_server.services.log_streams import Chunk, StreamKey
from styx_server.services.reports import Reported, Reports
from styx_server.services.sessions import Session as OpenSession
from styx_server.services.sessions import Sessions
from styx_server.transport import agent_codec
from styx_server.transport.auth import caller_of_call
from styx_server.transport.codec import duration, timestamp

_log = structlog.get_logger()
_Context = grpc.aio.ServicerContext[Any, Any]

PROTOCOL: Final = 1
HEARTBEAT_SECONDS: Final = 10.0
START_WINDOW_SECONDS: Final = 20.0
_HELLO_SECONDS: Final = 10.0
_WRITE_SECONDS: Final = 30.0
"""An agent that takes nothing for this long is as good as gone; its stream is closed and it dials again."""
_OUTBOX: Final = 10_000
_LOG_WINDOW: Final = 16


class AgentService(agent_service_pb2_grpc.AgentServiceServicer):
    """`styx.agent.v1.AgentService`; the comments in the proto are its reference."""

    def __init__(
        self,
        *,
        sessions: Sessions,
        reports: Reports,
        intake: LogIntake,
        agents: Agents,
        clock: Clock,
        deployment_id: UUID,
        replica_id: UUID,
    ) -> None:
        self._sessions = sessions
        self._reports = reports
        self._intake = intake
        self._agents = agents
        self._clock = clock
        self._deployment_id = str(deployment_id)
        self._replica_id = str(replica_id)
        self._streams: set[SessionStream] = set()

    async def Join(  # noqa: N802
        self, request: wire.JoinRequest, context: _Context
    ) -> wire.JoinResponse:
        """Makes a stranger an agent."""
        del context
        if len(request.key_digest) != 32:
            raise InvalidRequest([Violation(field="key_digest", description="must be a SHA-256, 32 bytes")])
        name = "".join(char for char in request.name if char.isprintable())[:MAX_NAME_CHARS] or "agent"
        agent_id = await self._agents.join(request.join_token, name, request.key_digest, request.version[:50])
        _log.info("agent_joined", agent=agent_id, name=name)
        return wire.JoinResponse(agent_id=agent_id, deployment_id=self._deployment_id)

    async def Session(self, requests: Any, context: _Context) -> None:  # noqa: N802
        """One session, from Hello to its end."""
        del requests
        stream = SessionStream(context, self._sessions, self._reports, self._clock)
        stream.introduce(self._deployment_id, self._replica_id)
        self._streams.add(stream)
        try:
            await stream.serve(caller_of_call.get().agent_id)
        finally:
            self._streams.discard(stream)

    async def PushLogs(self, requests: Any, context: _Context) -> None:  # noqa: N802
        """Output of attempts of one agent; acks come back in order while more is read."""
        del requests
        agent_id = caller_of_call.get().agent_id
        waiting: asyncio.Queue[tuple[wire.LogAck, asyncio.Task[Stored] | None] | None] = asyncio.Queue(_LOG_WINDOW)
        async with asyncio.TaskGroup() as group:
            group.create_task(_write_acks(context, waiting))
            while (request := await context.read()) is not grpc.aio.EOF:
                session = self._sessions.get(agent_id)
                if session is None or session.epoch != request.epoch:
                    raise Superseded("the output belongs to a session that is over; open a new one first")
                for append, ack in self._appends(session, request):
                    work = None if append is None else group.create_task(self._intake.append(append))
                    await waiting.put((ack, work))
            await waiting.put(None)

    def reconnect_all(self, within_seconds: float) -> None:
        """Asks every agent to move to another server, spread over a time."""
        for stream in self._streams:
            stream.send(wire.ServerMessage(reconnect=wire.Reconnect(within=duration(within_seconds))))

    def _appends(
        self, session: OpenSession, request: wire.PushLogsRequest
    ) -> list[tuple[Append | None, wire.LogAck]]:
        now = self._clock.now()
        grouped: dict[tuple[int, int], list[Chunk]] = {}
        for message in request.chunks:
            if message.stream in (1, 2):
                grouped.setdefault((message.fence, message.stream), []).append(agent_codec.chunk(message, now))
        appends: list[tuple[Append | None, wire.LogAck]] = []
        for (fence, stream), chunks in grouped.items():
            ack = wire.LogAck(fence=fence, stream=stream)  # type: ignore[arg-type]
            known = session.known.get(Fence(fence))
            if known is None:
                ack.unknown = True
                appends.append((None, ack))
                continue
            key = StreamKey(known.task_id, known.attempt, LogStream(stream))
            appends.append((Append(key=key, fence=Fence(fence), chunks=tuple(chunks)), ack))
        return appends


async def _write_acks(
    context: _Context, waiting: asyncio.Queue[tuple[wire.LogAck, asyncio.Task[Stored] | None] | None]
) -> None:
    while (item := await waiting.get()) is not None:
        acks = []
        while item is not None:
            ack, work = item
            if work is not None:
                stored = await work
                ack.durable_offset, ack.rewind = stored.end, stored.rewind
            acks.append(ack)
            if waiting.empty():
                break
            item = waiting.get_nowait()
        await context.write(wire.PushLogsResponse(acks=acks))
        if item is None:
            return


def _first(group: BaseExceptionGroup[StyxError]) -> StyxError:
    return next(error for error in group.exceptions if isinstance(error, StyxError))


class SessionStream:
    """One control stream: the outlet of a session, its reader and its writer."""

    def __init__(self, context: _Context, sessions: Sessions, reports: Reports, clock: Clock) -> None:
        self._context = context
        self._sessions = sessions
        self._reports = reports
        self._clock = clock
        self._outbox: deque[wire.ServerMessage] = deque()
        self._filled = asyncio.Event()
        self._over: StyxError | None = None
        self._ended = asyncio.Event()
        self._pending: deque[wire.Report] = deque()
        self._reported = asyncio.Event()
        self._beats: deque[tuple[int, list[Fence], bool]] = deque()
        self._beaten = asyncio.Event()
        self._deployment_id = ""
        self._replica_id = ""

    def introduce(self, deployment_id: str, replica_id: str) -> None:
        """Says who this server is, for Welcome."""
        self._deployment_id, self._replica_id = deployment_id, replica_id

    async def serve(self, agent_id: AgentId) -> None:
        """Serves the stream until it ends, from either side.

        Raises:
            StyxError: why this side ended it.
        """
        hello = await self._hello(agent_id)
        session = await self._sessions.open(agent_codec.hello(hello, self._clock.now()), self)
        try:
            async with asyncio.TaskGroup() as group:
                workers = [
                    group.create_task(self._write()),
                    group.create_task(self._answer_beats(session)),
                    group.create_task(self._store_reports(session)),
                ]
                reader = group.create_task(self._read(session))
                ender = group.create_task(self._ended.wait())
                await asyncio.wait([reader, ender, *workers], return_when=asyncio.FIRST_COMPLETED)
                for task in (reader, ender, *workers):
                    task.cancel()
        except* StyxError as group_of_ours:
            self._over = self._over or _first(group_of_ours)
        except* TimeoutError:
            self._over = self._over or Exhausted(f"the agent took no message for {_WRITE_SECONDS:g} s; connect again")
        finally:
            await asyncio.shield(self._sessions.close(session))
        if self._over is not None:
            raise self._over

    def send(self, message: wire.ServerMessage) -> None:
        """Puts a message behind those that wait to be written."""
        if len(self._outbox) >= _OUTBOX:
            self._end_with(Exhausted(f"{_OUTBOX:,} messages wait for this agent; connect again"))
            return
        self._outbox.append(message)
        self._filled.set()

    def welcome(self, epoch: int, verdicts: tuple[Verdict, ...]) -> None:
        """The session is open."""
        self.send(
            wire.ServerMessage(
                welcome=wire.Welcome(
                    epoch=epoch,
                    deployment_id=self._deployment_id,
                    replica_id=self._replica_id,
                    server_time=timestamp(self._clock.now()),
                    heartbeat_interval=duration(HEARTBEAT_SECONDS),
                    start_window=duration(START_WINDOW_SECONDS),
                    features=[wire.FEATURE_LOG_ZSTD],
                    verdicts=[agent_codec.verdict(item) for item in verdicts],
                )
            )
        )

    def assign(self, assignments: list[Assignment]) -> None:
        """Start these."""
        self.send(agent_codec.assign(assignments))

    def stop(self, orders: list[StopOrder]) -> None:
        """Stop these."""
        self.send(wire.ServerMessage(stop=wire.Stop(attempts=[agent_codec.stop(order) for order in orders])))

    def interest(self, fences: list[Fence]) -> None:
        """Somebody looks at the output of these."""
        self.send(wire.ServerMessage(log_interest=wire.LogInterest(fences=fences)))

    def end(self, reason: str) -> None:
        """The session is over."""
        self._end_with(Superseded(reason))

    def _end_with(self, error: StyxError) -> None:
        self._over = self._over or error
        self._ended.set()

    async def _hello(self, agent_id: AgentId) -> wire.Hello:
        # A read that is cancelled kills the call, which is right here: who says nothing is not wanted.
        async with asyncio.timeout(_HELLO_SECONDS):
            message = await self._context.read()
        if message is grpc.aio.EOF or message.WhichOneof("message") != "hello":
            raise InvalidRequest([Violation(field="hello", description="must be the first message of a session")])
        hello: wire.Hello = message.hello
        if hello.agent_id != agent_id:
            raise Denied(f"the token is of agent a{agent_id}, the session says a{hello.agent_id}")
        if hello.protocol != PROTOCOL:
            text = f"the agent speaks protocol {hello.protocol}, this server speaks {PROTOCOL}; upgrade the older one"
            raise InvalidRequest([Violation(field="protocol", description=text)], reason="VERSION_UNSUPPORTED")
        return hello

    async def _read(self, session: OpenSession) -> None:
        while (message := await self._context.read()) is not grpc.aio.EOF:
            match message.WhichOneof("message"):
                case "heartbeat":
                    beat = message.heartbeat
                    suspects = self._sessions.suspects(session, [Fence(fence) for fence in beat.live_fences])
                    self._beats.append((beat.seq, suspects, beat.draining))
                    self._beaten.set()
                case "report":
                    self._pending.append(message.report)
                    self._reported.set()
                case "goodbye":
                    _log.info("agent_said_goodbye", agent=session.agent_id, reason=message.goodbye.reason[:200])
                    return
                case _:
                    # From a newer agent: what both sides must understand is negotiated in Hello.
                    pass

    async def _write(self) -> None:
        while True:
            await self._filled.wait()
            self._filled.clear()
            while self._outbox:
                async with asyncio.timeout(_WRITE_SECONDS):
                    await self._context.write(self._outbox.popleft())

    async def _answer_beats(self, session: OpenSession) -> None:
        while True:
            await self._beaten.wait()
            self._beaten.clear()
            while self._beats:
                seq, suspects, draining = self._beats.popleft()
                answer = await self._sessions.beat(session, suspects, draining)
                if answer is None:
                    self.end("a newer session of this agent took over")
                    return
                ack = wire.HeartbeatAck(
                    seq=seq, stops=[agent_codec.stop(order) for order in answer.stops], unknown_fences=answer.unknown
                )
                self.send(wire.ServerMessage(heartbeat_ack=ack))

    async def _store_reports(self, session: OpenSession) -> None:
        while True:
            await self._reported.wait()
            self._reported.clear()
            while self._pending:
                batch, self._pending = self._pending, deque()
                now = self._clock.now()
                messages = [message for report in batch for message in report.attempts]
                refused = await self._store(session, [agent_codec.report(message, now) for message in messages])
                ack = wire.ReportAck(seq=batch[-1].seq, refused_fences=refused)
                self.send(wire.ServerMessage(report_ack=ack))

    async def _store(self, session: OpenSession, reports: list[AttemptReport]) -> list[Fence]:
        results = await self._reports.add_many(
            [Reported(agent_id=session.agent_id, epoch=session.epoch, report=report) for report in reports]
        )
        return [report.fence for report, accepted in zip(reports, results, strict=True) if not accepted]
