"""One session with a server, from Hello to its end. Never repaired, only replaced.

One reader, one writer, one log pusher; whichever fails ends all three. What is held and owed is in `ledger.py`; this
file keeps the order of the conversation and the lease. Next: `link.py`, which opens one session after the other.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import structlog
from google.protobuf.message import DecodeError

from styx import failpoints
from styx.agent.v1 import agent_service_pb2 as wire
from styx_agent import clock, codec, ids
from styx_agent.calls import SessionOver, first_cause, read_or_raise, write_or_raise
from styx_agent.chunks import ChunkMaker
from styx_agent.journal import Journal
from styx_agent.ledger import Held, Ledger
from styx_agent.logs import LogPusher
from styx_agent.orders import ServerOrders

log = structlog.get_logger(__name__)

_WELCOME_SECONDS = 30.0
_SILENCE_MICROS = 300_000_000
_UNACKED_BEATS = 2.5
"""When the last acked beat was sent this many beats ago, two are without an ack."""
_BUSY_LINGER_SECONDS = 0.02
_BUSY_ATTEMPTS = 8
"""With more than that alive nobody waits for one report: one for many costs the server as much as one for one."""
_YOUNG_MICROS = 100_000
"""Of an attempt that runs for so short a time a busy agent says nothing yet: its end may come first, and say it all."""
_REPORTS_IN_FLIGHT = 4
_ATTEMPTS_PER_REPORT = 1000


class ReconnectAsked(Exception):
    """The server wants the agent to open a new session.

    Attributes:
        within_seconds: upper end of the wait before that.
    """

    def __init__(self, within_seconds: float) -> None:
        super().__init__(f"asked to reconnect within {within_seconds:g} s")
        self.within_seconds = within_seconds


class Session:
    """One conversation.

    Args:
        stub: the server.
        metadata: proof of who we are, for every call.

    Attributes:
        may_move: there are other servers, and one of them may have what this one lost: its database, or its life.
    """

    def __init__(
        self,
        stub: Any,
        metadata: tuple[tuple[str, str], ...],
        *,
        ledger: Ledger,
        journal: Journal,
        data_dir: Path,
        orders: codec.OrderWriter,
    ) -> None:
        self._stub = stub
        self._metadata = metadata
        self._ledger = ledger
        self._server = ServerOrders(ledger)
        self._journal = journal
        self._data_dir = data_dir
        self._orders = orders
        self._wake = asyncio.Event()
        self._welcomed = asyncio.Event()
        self._supervisor_id = ledger.supervisor_id
        self._logs: LogPusher | None = None
        self._beat_seconds = 10.0
        self._window_micros = 0
        self._acked_at = 0
        self._opened_at = 0
        self._heard_at = 0
        self._beats: dict[int, int] = {}
        self._beat_seq = 0
        self._report_seq = 0
        self._reports: dict[int, list[tuple[int, bool, bool]]] = {}
        self._farewell: str | None = None
        self.draining = False
        self.may_move = False

    @property
    def is_open(self) -> bool:
        """Whether the server has said Welcome."""
        return self._welcomed.is_set()

    async def run(self, hello: wire.Hello) -> None:
        """Holds the session until it ends; returns only after `leave`.

        Raises:
            SessionOver: the stream has died.
            ReconnectAsked: the server wants a new session.
            WrongDeployment: this is somebody else's server.
        """
        call = self._stub.Session(metadata=self._metadata)
        self._ledger.on_news = self._wake.set
        try:
            self._acked_at = clock.boottime_micros()  # the lease counts from before Hello is sent
            await write_or_raise(call, wire.AgentMessage(hello=hello))
            await failpoints.reach("link.hello.sent")
            async with asyncio.TaskGroup() as group:
                reader = group.create_task(self._read(call))
                if not await clock.wait_for_event(self._welcomed, _WELCOME_SECONDS):
                    raise SessionOver("no Welcome came")
                pusher = group.create_task(self._logs.run()) if self._logs is not None else reader
                await self._write(call)
                await _say_goodbye(call, self._farewell or "")
                reader.cancel()
                pusher.cancel()
        except BaseExceptionGroup as causes:
            raise first_cause(causes) from None
        finally:
            self._ledger.on_news = lambda: None
            self._ledger.on_growth = lambda _stream: None
            call.cancel()

    def leave(self, reason: str) -> None:
        """Ends the session politely."""
        self._farewell = reason
        self._wake.set()

    def set_draining(self, draining: bool) -> None:
        """Tells the server at once, with a beat, whether no new work is wanted."""
        self.draining = draining
        self._wake.set()

    # What the server says.

    async def _read(self, call: Any) -> None:
        while True:
            message = await read_or_raise(call)
            self._heard_at = clock.boottime_micros()
            kind = message.WhichOneof("message")
            if kind == "welcome":
                self._on_welcome(message.welcome)
            elif self.is_open:
                self._on_message(kind, message)

    def _on_message(self, kind: str | None, message: wire.ServerMessage) -> None:
        match kind:
            case "assign":
                may_start = self._heard_at < self._acked_at + self._window_micros
                _assign(self._server, self._orders, message.assign, may_start=may_start)
            case "stop":
                failpoints.hit("link.stop.received")
                for stop in message.stop.attempts:
                    self._server.stop(stop.fence, *codec.stop_terms(stop))
            case "heartbeat_ack":
                self._on_heartbeat_ack(message.heartbeat_ack)
            case "report_ack":
                self._on_report_ack(message.report_ack)
            case "log_interest" if self._logs is not None:
                self._logs.on_interest(frozenset(message.log_interest.fences))
            case "reconnect":
                raise ReconnectAsked(codec.micros(message.reconnect.within) / 1e6)

    def _on_welcome(self, welcome: wire.Welcome) -> None:
        if self.is_open:
            return
        failpoints.hit("link.welcome.received")
        self._journal.check_deployment(welcome.deployment_id)
        self._journal.session_opened(welcome.epoch)
        self._beat_seconds = max(0.05, codec.micros(welcome.heartbeat_interval) / 1e6)
        self._window_micros = codec.micros(welcome.start_window)
        self._opened_at = self._heard_at
        self._ledger.new_session()
        for verdict in welcome.verdicts:
            _obey(self._server, verdict)
        # Last: an order that still waits, and that the server has given up, must not start under the new lease.
        self._extend(self._acked_at)
        self._logs = LogPusher(
            self._ledger,
            ChunkMaker(self._data_dir, compress=wire.FEATURE_LOG_ZSTD in welcome.features),
            lambda: self._stub.PushLogs(metadata=self._metadata),
            epoch=welcome.epoch,
        )
        self._ledger.on_growth = self._logs.on_growth
        log.info("session_opened", epoch=welcome.epoch, replica_id=welcome.replica_id)
        self._welcomed.set()
        self._wake.set()

    def _on_heartbeat_ack(self, ack: wire.HeartbeatAck) -> None:
        for stop in ack.stops:
            self._server.stop(stop.fence, *codec.stop_terms(stop))
        self._server.disown(ack.unknown_fences)
        sent_at = self._beats.get(ack.seq)
        if sent_at is not None:
            self._beats = {seq: at for seq, at in self._beats.items() if seq > ack.seq}
            self._extend(sent_at)

    def _on_report_ack(self, ack: wire.ReportAck) -> None:
        self._server.disown(ack.refused_fences)
        for seq in [seq for seq in self._reports if seq <= ack.seq]:
            told = self._reports.pop(seq)
            for _, _, ended in told:
                failpoints.hit("link.end.acked" if ended else "link.start.acked")
            self._server.start_recorded(fence for fence, started, _ in told if started)
            for fence, _, ended in told:
                if ended:
                    self._server.end_stored(fence)
        self._wake.set()

    def _extend(self, sent_at: int) -> None:
        self._acked_at = max(self._acked_at, sent_at)
        self._server.extend_lease(self._acked_at, self._window_micros)

    # What we say.

    async def _write(self, call: Any) -> None:
        next_beat = clock.boottime_micros()  # at once: a slow Welcome has used up part of the start window
        said = _standing(self.draining, self._ledger)
        while self._farewell is None:
            now = clock.boottime_micros()
            moves_at = self._check(now)
            if now >= next_beat or said != _standing(self.draining, self._ledger):
                said = _standing(self.draining, self._ledger)
                await self._beat(call)
                next_beat = now + round(ids.around(self._beat_seconds) * 1e6)
            if self._ledger.has_news and len(self._reports) < _REPORTS_IN_FLIGHT:
                busy = len(self._ledger.live_fences()) > _BUSY_ATTEMPTS
                if busy:  # what starts and ends meanwhile becomes one report
                    await clock.sleep(_BUSY_LINGER_SECONDS)
                await self._report(call, busy=busy)
                continue
            self._wake.clear()
            until = min(next_beat, moves_at) if self.may_move else next_beat
            await clock.wait_for_event(self._wake, max(0.0, until - clock.boottime_micros()) / 1e6)

    def _check(self, now: int) -> int:
        """Whether the session is still of use; until when, if no beat is acked and another server may do so."""
        if self._ledger.supervisor_id != self._supervisor_id:
            raise SessionOver("the supervisor was replaced")
        if now - self._heard_at > max(_SILENCE_MICROS, round(6e6 * self._beat_seconds)):
            raise SessionOver("the server has been silent for too long")
        moves_at = max(self._acked_at, self._opened_at) + round(_UNACKED_BEATS * 1e6 * self._beat_seconds)
        if self.may_move and now >= moves_at:
            raise SessionOver("the server acked neither of the last two beats; another one may")
        return moves_at

    async def _beat(self, call: Any) -> None:
        self._beat_seq += 1
        now = clock.boottime_micros()
        beat = wire.Heartbeat(
            seq=self._beat_seq,
            live_fences=self._ledger.live_fences(),
            draining=self.draining,
            preemption_notice=codec.preemption_notice(self._ledger.notice, now),
            owes=self._ledger.owes,
        )
        self._beats[self._beat_seq] = now
        await write_or_raise(call, wire.AgentMessage(heartbeat=beat))

    async def _report(self, call: Any, *, busy: bool) -> None:
        now = clock.boottime_micros()
        news = self._ledger.take_news(_ATTEMPTS_PER_REPORT, now - _YOUNG_MICROS if busy else None)
        if not news:
            return
        self._report_seq += 1
        report = wire.Report(seq=self._report_seq, attempts=[codec.report(held, now) for held in news])
        self._reports[self._report_seq] = [(held.fence, _says_started(held), held.ended) for held in news]
        await write_or_raise(call, wire.AgentMessage(report=report))
        for held in news:
            await failpoints.reach("link.end.sent" if held.ended else "link.start.sent")


def _standing(draining: bool, ledger: Ledger) -> tuple[bool, bool]:
    """What the server hears of at once: whether this agent leaves, and then, whether its machine may end."""
    return draining, draining and ledger.owes


def _says_started(held: Held) -> bool:
    return held.started_micros is not None or held.state in ("PREPARING", "RUNNING", "STOPPING")


def _obey(server: ServerOrders, verdict: wire.Verdict) -> None:
    fence = verdict.fence
    if verdict.action == wire.Verdict.FORGET:
        server.condemn(fence)
        return
    for position in verdict.logs:
        if name := codec.STREAM_NAMES.get(position.stream):
            server.stored(fence, name, position.offset)
    if verdict.start_acked:
        server.start_recorded([fence])
    if verdict.end_acked:
        server.end_stored(fence)
    if verdict.action == wire.Verdict.STOP:
        server.stop(fence, *codec.stop_terms(verdict.stop))


async def _say_goodbye(call: Any, reason: str) -> None:
    with contextlib.suppress(SessionOver):
        await write_or_raise(call, wire.AgentMessage(goodbye=wire.Goodbye(reason=reason)))
        await call.done_writing()


def _assign(server: ServerOrders, orders: codec.OrderWriter, assign: wire.Assign, *, may_start: bool) -> None:
    failpoints.hit("link.assign.received")
    for assignment in assign.assignments:
        try:
            order = orders.order(assignment)
        except DecodeError:
            log.exception("assignment_unreadable", fence=assignment.fence)
            continue
        server.assign(order, may_start=may_start)
