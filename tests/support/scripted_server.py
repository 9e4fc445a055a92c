"""An AgentService that keeps everything in memory and does what a test says.

Left alone it behaves: it takes joins, opens sessions, acks beats, reports and output. Tests switch off what they want
to withhold, push orders, cut connections, and look at what has arrived.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import zstandard

from styx.agent.v1 import agent_service_pb2 as wire
from styx.agent.v1.agent_service_pb2_grpc import AgentServiceServicer, add_AgentServiceServicer_to_server
from styx.v1 import tasks_pb2
from styx_agent.codec import duration
from tests.support.memory_service import refuse

JOIN_TOKEN = "styx_join_1_secret"
DEPLOYMENT = "deployment-of-the-test"


@dataclass
class ScriptedSession:
    """One session as the server sees it."""

    hello: wire.Hello
    epoch: int
    port: int
    outbox: asyncio.Queue[wire.ServerMessage | None] = field(default_factory=asyncio.Queue)
    beats: list[wire.Heartbeat] = field(default_factory=list)
    reports: list[wire.Report] = field(default_factory=list)
    goodbye: bool = False
    over: bool = False

    def send(self, **message: Any) -> None:
        self.outbox.put_nowait(wire.ServerMessage(**message))

    def cut(self) -> None:
        """Ends the stream from the server's side."""
        self.outbox.put_nowait(None)


class ScriptedServer:
    def __init__(self) -> None:
        self.agents: dict[int, bytes] = {}
        self.sessions: list[ScriptedSession] = []
        self.attempts: dict[int, wire.AttemptReport] = {}
        self.history: list[wire.AttemptReport] = []
        self.output: dict[tuple[int, int], bytearray] = {}
        self.gaps: list[tasks_pb2.LogGap] = []
        self.pushes: list[wire.PushLogsRequest] = []
        self.tokens: list[str] = []
        self.beat_seconds = 0.2
        self.window_seconds = 20.0
        self.deployment_id = DEPLOYMENT
        self.ack_beats = True
        self.ack_reports = True
        self.ack_logs = True
        self.broken_pushes = 0
        self.join_status: grpc.StatusCode | None = None
        self.has_removed_agents = False
        self.verdicts: Callable[[wire.Hello], list[wire.Verdict]] = self.usual_verdicts
        self.log_answer: Callable[[wire.LogChunk], wire.LogAck | None] = lambda _chunk: None
        self._next_fence = 100

    # What tests do.

    @property
    def session(self) -> ScriptedSession:
        return self.sessions[-1]

    def assign(self, command: str, *, session: ScriptedSession | None = None, **spec: Any) -> int:
        """Orders a start on the latest session; gives the fence."""
        self._next_fence += 1
        fence = self._next_fence
        body = tasks_pb2.TaskSpec(command=command, **spec).SerializeToString()
        self.assign_raw(wire.Assignment(fence=fence, task_id=fence, attempt=1, spec=body), session)
        return fence

    def assign_raw(self, assignment: wire.Assignment, session: ScriptedSession | None = None) -> None:
        (session or self.session).send(assign=wire.Assign(assignments=[assignment]))

    def ended(self, fence: int) -> bool:
        return fence in self.attempts and self.attempts[fence].state == tasks_pb2.Attempt.ENDED

    def running(self, fence: int) -> bool:
        return fence in self.attempts and self.attempts[fence].state == tasks_pb2.Attempt.RUNNING

    def complete(self, fence: int) -> bool:
        """Whether the end is here and every byte agrees with it."""
        return self.ended(fence) and all(self._agrees(fence, log) for log in self.attempts[fence].logs)

    def stdout(self, fence: int) -> bytes:
        return bytes(self.output.get((fence, tasks_pb2.STDOUT), b""))

    def stderr(self, fence: int) -> bytes:
        return bytes(self.output.get((fence, tasks_pb2.STDERR), b""))

    def _agrees(self, fence: int, log: wire.LogEnd) -> bool:
        if len(self.output.get((fence, log.stream), b"")) != log.total_bytes:
            return False
        kept = bytearray(self.output.get((fence, log.stream), b""))
        for gap in sorted(log.gaps, key=lambda gap: -gap.start_offset):
            del kept[gap.start_offset : gap.end_offset]
        return hashlib.sha256(kept).digest() == log.sha256

    # What agents call.

    async def Join(self, request: wire.JoinRequest, context: Any) -> wire.JoinResponse:
        if self.join_status is not None:
            await context.abort(self.join_status, "not now")
        if request.join_token != JOIN_TOKEN:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "unknown join token")
        for agent_id, digest in self.agents.items():
            if digest == request.key_digest:
                return wire.JoinResponse(agent_id=agent_id, deployment_id=self.deployment_id)
        agent_id = len(self.agents) + 1
        self.agents[agent_id] = request.key_digest
        return wire.JoinResponse(agent_id=agent_id, deployment_id=self.deployment_id)

    async def Session(self, port: int, context: Any) -> None:
        await self._check_token(context)
        hello = (await context.read()).hello
        epoch = max(hello.last_epoch, len(self.sessions)) + 1
        session = ScriptedSession(hello=hello, epoch=epoch, port=port)
        for held in hello.attempts:
            if held.HasField("unacked_report") and self.ack_reports:
                self._store(held.unacked_report)
        self.sessions.append(session)
        session.send(
            welcome=wire.Welcome(
                epoch=epoch,
                deployment_id=self.deployment_id,
                replica_id="scripted",
                heartbeat_interval=duration(round(self.beat_seconds * 1e6)),
                start_window=duration(round(self.window_seconds * 1e6)),
                features=[wire.FEATURE_LOG_ZSTD],
                verdicts=self.verdicts(hello),
            )
        )
        reader = asyncio.ensure_future(self._read(session, context))
        try:
            while (message := await session.outbox.get()) is not None:
                await context.write(message)
        finally:
            session.over = True
            reader.cancel()

    async def PushLogs(self, context: Any) -> None:
        await self._check_token(context)
        while (request := await context.read()) is not grpc.aio.EOF:
            if request.epoch != self.session.epoch:
                await context.abort(grpc.StatusCode.ABORTED, "an older session")
            self.pushes.append(request)
            if self.broken_pushes:
                self.broken_pushes -= 1
                await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
            if self.ack_logs:
                await context.write(wire.PushLogsResponse(acks=[self._append(chunk) for chunk in request.chunks]))

    async def _read(self, session: ScriptedSession, context: Any) -> None:
        while (message := await context.read()) is not grpc.aio.EOF:
            match message.WhichOneof("message"):
                case "heartbeat":
                    session.beats.append(message.heartbeat)
                    if self.ack_beats:
                        session.send(heartbeat_ack=wire.HeartbeatAck(seq=message.heartbeat.seq))
                case "report":
                    session.reports.append(message.report)
                    if self.ack_reports:
                        for report in message.report.attempts:
                            self._store(report)
                        session.send(report_ack=wire.ReportAck(seq=message.report.seq))
                case "goodbye":
                    session.goodbye = True
        session.cut()

    def usual_verdicts(self, hello: wire.Hello) -> list[wire.Verdict]:
        return [
            wire.Verdict(
                fence=held.fence,
                action=wire.Verdict.CONTINUE,
                start_acked=held.fence in self.attempts,
                end_acked=self.ended(held.fence),
                logs=[
                    wire.LogPosition(stream=stream, offset=len(data))
                    for (fence, stream), data in self.output.items()
                    if fence == held.fence
                ],
            )
            for held in hello.attempts
        ]

    async def _check_token(self, context: Any) -> None:
        given = dict(context.invocation_metadata()).get("authorization", "")
        self.tokens.append(given)
        scheme, _, token = given.partition(" ")
        parts = token.split("_", 3)
        if scheme != "Bearer" or parts[:2] != ["styx", "agent"] or len(parts) != 4:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token")
        if self.has_removed_agents:
            await refuse(context, grpc.StatusCode.UNAUTHENTICATED, "AGENT_REMOVED", f"agent a{parts[2]} was removed")
        if self.agents.get(int(parts[2])) != hashlib.sha256(parts[3].encode()).digest():
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "wrong token")

    def _store(self, report: wire.AttemptReport) -> None:
        self.history.append(report)
        known = self.attempts.get(report.fence)
        if known is None or report.state >= known.state:
            self.attempts[report.fence] = report

    def _append(self, chunk: wire.LogChunk) -> wire.LogAck:
        answer = self.log_answer(chunk)
        if answer is not None:
            return answer
        kept = self.output.setdefault((chunk.fence, chunk.stream), bytearray())
        start = chunk.gap.start_offset if chunk.HasField("gap") else chunk.offset
        if start != len(kept):
            return wire.LogAck(fence=chunk.fence, stream=chunk.stream, durable_offset=len(kept), rewind=True)
        if chunk.HasField("gap"):
            self.gaps.append(chunk.gap)
            kept += b"?" * (chunk.offset - start)
        data = chunk.data
        if chunk.codec == wire.LogChunk.ZSTD:
            data = zstandard.ZstdDecompressor().decompress(data, max_output_size=chunk.length)
        assert len(data) == chunk.length
        kept += data
        return wire.LogAck(fence=chunk.fence, stream=chunk.stream, durable_offset=len(kept))


class _Door(AgentServiceServicer):  # type: ignore[misc]
    """One of the ports that a service can be reached at."""

    def __init__(self, service: ScriptedServer, port: int) -> None:
        self._service = service
        self._port = port

    async def Join(self, request: wire.JoinRequest, context: Any) -> wire.JoinResponse:
        return await self._service.Join(request, context)

    async def Session(self, _requests: Any, context: Any) -> None:
        await self._service.Session(self._port, context)

    async def PushLogs(self, _requests: Any, context: Any) -> None:
        await self._service.PushLogs(context)


@asynccontextmanager
async def scripted_server(port: int = 0) -> AsyncIterator[tuple[ScriptedServer, int]]:
    """A server that is up; with the port that it listens on."""
    service = ScriptedServer()
    async with listening(service, port) as bound:
        yield service, bound


@asynccontextmanager
async def listening(service: ScriptedServer, port: int = 0) -> AsyncIterator[int]:
    """Puts a service on a port for a while; on several at once, it stands for replicas on one database."""
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    add_AgentServiceServicer_to_server(_Door(service, bound), server)  # type: ignore[no-untyped-call]
    await server.start()
    try:
        yield bound
    finally:
        for session in service.sessions:
            session.cut()
        await server.stop(0.2)
