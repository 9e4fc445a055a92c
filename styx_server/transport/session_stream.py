"""One agent's control stream: its reader, its writer, and what waits between them and the services.

Reading never waits for the database, so that a beat is never behind a report that waits for it; what has to wait stands
in a bounded queue, and a full one ends the session.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, Final

import grpc
import structlog

from styx import failpoints
from styx.agent.v1 import agent_service_pb2 as wire
from styx_server.clock import Clock
from styx_server.core.errors import Denied, Exhausted, InvalidRequest, StyxError, Superseded, Violation, WrongState
from styx_server.core.session import Assignment, AttemptReport, StopOrder, Verdict
from styx_server.core.task import AgentId, Fence
from styx_server.services.reports import Answer, Reported, Reports
from styx_server.services.session_registry import Session
from styx_server.services.sessions import Sessions
from styx_server.transport import agent_codec

_log = structlog.get_logger()
Context = grpc.aio.ServicerContext[Any, Any]

PROTOCOLS: Final = range(1, 2)
"""Protocols of agents that this server understands."""
WRITE_SECONDS: Final = 30.0
"""An agent that takes nothing for this long is as good as gone; its stream is closed and it dials again."""
_HELLO_SECONDS: Final = 10.0
_OUTBOX: Final = 10_000
_INBOX: Final = 10_000
_ASSIGN_BYTES: Final = 1 << 20
_SENT: Final = {
    "welcome": "server.welcome.sent",
    "assign": "server.assign.sent",
    "stop": "server.stop.sent",
    "report_ack": "server.report.acked",
}
"""Failpoints behind the writing of a message."""


class Outbox:
    """What waits to be written to one agent, in order: the outlet of its session.

    There is one for each agent, so it has lists and futures where an idle queue or event would take a kilobyte.

    Args:
        introduce: makes the part of Welcome that is the same for every agent.

    Attributes:
        ended: done when the stream is to end.
    """

    def __init__(self, context: Context, introduce: Callable[[], wire.Welcome]) -> None:
        self._context = context
        self._introduce = introduce
        self._waiting: list[wire.ServerMessage] = []
        self._loop = asyncio.get_running_loop()
        self._filled = self._loop.create_future()
        self.ended = self._loop.create_future()
        self.error: StyxError | None = None

    def send(self, message: wire.ServerMessage) -> None:
        """Puts a message behind those that wait to be written."""
        if len(self._waiting) >= _OUTBOX:
            self.end_with(Exhausted(f"{_OUTBOX:,} messages wait for this agent; connect again"))
            return
        self._waiting.append(message)
        if not self._filled.done():
            self._filled.set_result(None)

    def welcome(self, epoch: int, verdicts: tuple[Verdict, ...]) -> None:
        """The session is open."""
        welcome = wire.Welcome(epoch=epoch, verdicts=[agent_codec.verdict(item) for item in verdicts])
        welcome.MergeFrom(self._introduce())
        self.send(wire.ServerMessage(welcome=welcome))

    def assign(self, assignments: list[Assignment]) -> None:
        """Start these."""
        for batch in _batches(assignments):
            self.send(agent_codec.assign(batch))

    def stop(self, orders: list[StopOrder]) -> None:
        """Stop these."""
        self.send(wire.ServerMessage(stop=wire.Stop(attempts=[agent_codec.stop(order) for order in orders])))

    def interest(self, fences: list[Fence]) -> None:
        """Somebody looks at the output of these."""
        self.send(wire.ServerMessage(log_interest=wire.LogInterest(fences=fences)))

    def end(self, reason: str) -> None:
        """The session is over."""
        self.end_with(Superseded(reason))

    def end_with(self, error: StyxError) -> None:
        """The stream is to end with this; the first reason counts."""
        self.error = self.error or error
        if not self.ended.done():
            self.ended.set_result(None)

    async def write_all(self) -> None:
        """Writes for ever; the only writer of the stream."""
        while True:
            await self._filled
            self._filled = self._loop.create_future()
            messages, self._waiting = self._waiting, []
            for message in messages:
                async with asyncio.timeout(WRITE_SECONDS):
                    await self._context.write(message)
                await failpoints.reach(_SENT.get(message.WhichOneof("message"), ""))
            # A frame that waits keeps what its names stand for.
            del messages, message


def _batches(assignments: list[Assignment]) -> Iterator[list[Assignment]]:
    """Assignments in messages that an agent can take: specs may be large."""
    batch: list[Assignment] = []
    size = 0
    for item in assignments:
        if batch and size + len(item.body) > _ASSIGN_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += len(item.body) + 64
    if batch:
        yield batch


class _Over(Exception):
    """Ends everything that serves a stream."""


class SessionStream:
    """One control stream: reads what the agent says, and has it acted on.

    Beats are answered and reports stored by tasks that live for as long as there are any, so an idle agent has none.
    """

    def __init__(self, context: Context, outbox: Outbox, sessions: Sessions, reports: Reports, clock: Clock) -> None:
        self._context = context
        self._outbox = outbox
        self._sessions = sessions
        self._reports = reports
        self._clock = clock
        self._group = asyncio.TaskGroup()
        self._pending: list[wire.Report] = []
        self._storing_reports = False
        self._beat: tuple[int, list[Fence], bool] | None = None
        self._answering_beats = False
        self._storing_beat = False
        self._goodbye = False

    async def serve(self, agent_id: AgentId) -> None:
        """Serves the stream until it ends, from either side.

        Raises:
            StyxError: why this side ended it.
        """
        session = await self._open(agent_id)
        try:
            async with self._group as group:
                group.create_task(self._outbox.write_all())
                reader = group.create_task(self._read(session))
                await asyncio.wait([reader, self._outbox.ended], return_when=asyncio.FIRST_COMPLETED)
                raise _Over
        except* _Over:
            pass
        except* TimeoutError:
            self._outbox.end_with(Exhausted(f"the agent took no message for {WRITE_SECONDS:g} s; connect again"))
        except* grpc.aio.InternalError:
            # The connection ended in the middle of a message, as connections do.
            _log.debug("session_cut", agent=agent_id)
        finally:
            await asyncio.shield(self._sessions.close(session, goodbye=self._goodbye))
        if self._outbox.error is not None:
            raise self._outbox.error

    async def _open(self, agent_id: AgentId) -> Session:
        hello = await self._hello(agent_id)
        return await self._sessions.open(agent_codec.hello(hello, self._clock.now()), self._outbox)

    async def _hello(self, agent_id: AgentId) -> wire.Hello:
        # A read that is cancelled kills the call, which is right here: who says nothing is not wanted.
        try:
            async with asyncio.timeout(_HELLO_SECONDS):
                message = await self._context.read()
        except TimeoutError:
            message = grpc.aio.EOF
        if message is grpc.aio.EOF or message.WhichOneof("message") != "hello":
            raise InvalidRequest([Violation(field="hello", description="must be the first message of a session")])
        hello: wire.Hello = message.hello
        if hello.agent_id != agent_id:
            raise Denied(f"the token is of agent a{agent_id}, the session says a{hello.agent_id}")
        if hello.protocol not in PROTOCOLS:
            spoken = f"{PROTOCOLS[0]} to {PROTOCOLS[-1]}"
            text = f"the agent speaks protocol {hello.protocol}, this server {spoken}; upgrade the older one"
            raise WrongState(text, reason="VERSION_UNSUPPORTED")
        return hello

    async def _read(self, session: Session) -> None:
        while (message := await self._context.read()) is not grpc.aio.EOF:
            if len(self._pending) > _INBOX:
                raise Exhausted(f"{_INBOX:,} messages of this agent wait for the database; connect again later")
            match message.WhichOneof("message"):
                case "heartbeat":
                    self._take_beat(session, message.heartbeat)
                case "report":
                    self._pending.append(message.report)
                    if not self._storing_reports:
                        self._storing_reports = True
                        self._group.create_task(self._store_reports(session))
                case "goodbye":
                    self._goodbye = True
                    _log.info("agent_said_goodbye", agent=session.agent_id, reason=message.goodbye.reason[:200])
                    return
                case _:
                    # From a newer agent: what both sides must understand is negotiated in Hello.
                    pass
            # The next one may be long in coming.
            del message

    def _take_beat(self, session: Session, beat: wire.Heartbeat) -> None:
        """The newest beat says all that those before it did, so it takes the place of one that waits."""
        suspects = self._sessions.suspects(session, [Fence(fence) for fence in beat.live_fences])
        self._beat = (beat.seq, suspects, beat.draining)
        session.owing, session.notice = beat.owes, agent_codec.notice(beat)
        if not self._answering_beats:
            self._answering_beats = True
            self._group.create_task(self._answer_beats(session))
        if self._storing_beat:
            # The database is away: an empty message renews no lease, but says that this end of the stream lives.
            self._outbox.send(wire.ServerMessage())

    async def _answer_beats(self, session: Session) -> None:
        while self._beat is not None:
            (seq, suspects, draining), self._beat = self._beat, None
            self._storing_beat = True
            answer = await self._sessions.beat(session, suspects, draining)
            self._storing_beat = False
            if answer is None:
                self._outbox.end("a newer session of this agent took over")
                return
            ack = wire.HeartbeatAck(
                seq=seq, stops=[agent_codec.stop(order) for order in answer.stops], unknown_fences=answer.unknown
            )
            self._outbox.send(wire.ServerMessage(heartbeat_ack=ack))
        self._answering_beats = False

    async def _store_reports(self, session: Session) -> None:
        while self._pending:
            batch, self._pending = self._pending, []
            now = self._clock.now()
            messages = [message for report in batch for message in report.attempts]
            reports = [agent_codec.report(message, now) for message in messages]
            answers = await self._store(session, reports)
            if Answer.STALE in answers:
                # Not acked: the agent tells it again in its next session.
                self._outbox.end("a newer session of this agent took over, or this one was given up")
                return
            pairs = zip(reports, answers, strict=True)
            refused = [report.fence for report, answer in pairs if answer is Answer.REFUSED]
            ack = wire.ReportAck(seq=batch[-1].seq, refused_fences=refused)
            self._outbox.send(wire.ServerMessage(report_ack=ack))
        self._storing_reports = False

    async def _store(self, session: Session, reports: list[AttemptReport]) -> list[Answer]:
        known = session.known
        return await self._reports.add_many(
            [
                Reported(
                    agent_id=session.agent_id,
                    epoch=session.epoch,
                    report=report,
                    attempt=known[report.fence].attempt if report.fence in known else 0,
                )
                for report in reports
            ]
        )
