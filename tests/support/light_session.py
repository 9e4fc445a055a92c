"""One session of a light agent: the conversation of `styx_agent/session.py`, without output and without processes.

The same order of things and the same rules of time, so that a server cannot tell the two apart. Next:
`light_agents.py`, which opens one session after the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from typing import Any, Protocol

from styx.agent.v1 import agent_service_pb2 as wire
from styx_agent import clock, codec, ids
from styx_agent.calls import SessionOver, first_cause, read_or_raise, write_or_raise
from styx_agent.session import ReconnectAsked

_WELCOME_SECONDS = 30.0
_UNACKED_BEATS = 2.5
_REPORTS_IN_FLIGHT = 4
_ATTEMPTS_PER_REPORT = 1000


class Step(Enum):
    """How far a session has come: the server said Welcome, or has stored a beat."""

    OPENED = "opened"
    LEASED = "leased"


class Held(Protocol):
    """What the agent of a session holds; `light_attempts.py` and `light_answers.py` have one each."""

    @property
    def has_news(self) -> bool:
        """Whether there is something to report."""
        ...

    def extend(self, sent_micros: int, window_micros: int) -> None:
        """A beat sent at that time is stored."""
        ...

    def assign(self, orders: Sequence[wire.Assignment], now: int) -> None:
        """New attempts."""
        ...

    def obey(self, verdict: wire.Verdict, now: int) -> None:
        """What the server makes of an attempt that Hello listed."""
        ...

    def stop(self, fence: int, now: int) -> None:
        """The server wants an end."""
        ...

    def disown(self, fences: Iterable[int]) -> None:
        """The server says that these are not this agent's (any more)."""
        ...

    def stored(self, report: wire.Report) -> None:
        """The server has stored a report."""
        ...

    def pass_time(self, now: int) -> None:
        """What happens by itself has happened by now."""
        ...

    def next_due(self) -> int | None:
        """When something happens by itself."""
        ...

    def new_session(self) -> None:
        """What was told to an earlier session and not acked is news again."""
        ...

    def live_fences(self) -> list[int]:
        """Everything that lives."""
        ...

    def take_news(self, count: int, now: int) -> wire.Report:
        """The oldest news as of now, at most so many."""
        ...


class LightSession:
    """One conversation.

    Args:
        note: told of each step.
        may_move: there are other servers to try when this one acks nothing.
    """

    def __init__(self, holdings: Held, note: Callable[[Step], None], *, may_move: bool) -> None:
        self._holdings = holdings
        self._note = note
        self._may_move = may_move
        self._wake = asyncio.Event()
        self._welcomed = asyncio.Event()
        self._beat_micros = 0
        self._window_micros = 0
        self._acked_at = 0
        self._beats: dict[int, int] = {}
        self._beat_seq = 0
        self._report_seq = 0
        self._reports: dict[int, wire.Report] = {}
        self.epoch = 0

    @property
    def is_open(self) -> bool:
        """Whether the server has said Welcome."""
        return self._welcomed.is_set()

    def wake(self) -> None:
        """There is something to say."""
        self._wake.set()

    async def run(self, call: Any, hello: Callable[[int], wire.Hello]) -> None:
        """Holds the session until it ends.

        Raises:
            SessionOver: the stream has died.
            ReconnectAsked: the server wants a new session.
        """
        try:
            self._acked_at = clock.boottime_micros()
            await write_or_raise(call, wire.AgentMessage(hello=hello(self._acked_at)))
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read(call))
                if not await clock.wait_for_event(self._welcomed, _WELCOME_SECONDS):
                    raise SessionOver("no Welcome came")
                await self._write(call)
        except BaseExceptionGroup as causes:
            raise first_cause(causes) from None
        finally:
            call.cancel()

    # What the server says.

    async def _read(self, call: Any) -> None:
        while True:
            message = await read_or_raise(call)
            kind = message.WhichOneof("message")
            if kind == "welcome":
                self._on_welcome(message.welcome)
            elif self.is_open:
                self._on_message(kind, message)

    def _on_welcome(self, welcome: wire.Welcome) -> None:
        now = clock.boottime_micros()
        self.epoch = welcome.epoch
        self._beat_micros = codec.micros(welcome.heartbeat_interval)
        self._window_micros = codec.micros(welcome.start_window)
        self._holdings.new_session()
        for verdict in welcome.verdicts:
            self._holdings.obey(verdict, now)
        self._holdings.extend(self._acked_at, self._window_micros)
        self._welcomed.set()
        self._note(Step.OPENED)

    def _on_message(self, kind: str | None, message: wire.ServerMessage) -> None:
        now = clock.boottime_micros()
        match kind:
            case "assign":
                self._holdings.assign(message.assign.assignments, now)
            case "stop":
                for stop in message.stop.attempts:
                    self._holdings.stop(stop.fence, now)
            case "heartbeat_ack":
                self._on_heartbeat_ack(message.heartbeat_ack, now)
            case "report_ack":
                self._on_report_ack(message.report_ack)
            case "reconnect":
                raise ReconnectAsked(codec.micros(message.reconnect.within) / 1e6)
        self._wake.set()

    def _on_heartbeat_ack(self, ack: wire.HeartbeatAck, now: int) -> None:
        for stop in ack.stops:
            self._holdings.stop(stop.fence, now)
        self._holdings.disown(ack.unknown_fences)
        sent_at = self._beats.get(ack.seq)
        if sent_at is not None:
            self._beats = {seq: at for seq, at in self._beats.items() if seq > ack.seq}
            self._acked_at = max(self._acked_at, sent_at)
            self._holdings.extend(sent_at, self._window_micros)
            self._note(Step.LEASED)

    def _on_report_ack(self, ack: wire.ReportAck) -> None:
        self._holdings.disown(ack.refused_fences)
        for seq in [seq for seq in self._reports if seq <= ack.seq]:
            self._holdings.stored(self._reports.pop(seq))

    # What we say.

    async def _write(self, call: Any) -> None:
        opened_at = next_beat = clock.boottime_micros()
        while True:
            now = clock.boottime_micros()
            moves_at = max(self._acked_at, opened_at) + round(_UNACKED_BEATS * self._beat_micros)
            if self._may_move and now >= moves_at:
                raise SessionOver("the server acked neither of the last two beats; another one may")
            if now >= next_beat:
                await self._beat(call)
                next_beat = now + round(ids.around(self._beat_micros))
            self._holdings.pass_time(now)
            if self._holdings.has_news and len(self._reports) < _REPORTS_IN_FLIGHT:
                await self._report(call)
                continue
            self._wake.clear()
            until = min(next_beat, moves_at if self._may_move else next_beat, self._holdings.next_due() or next_beat)
            await clock.wait_for_event(self._wake, max(0, until - clock.boottime_micros()) / 1e6)

    async def _beat(self, call: Any) -> None:
        self._beat_seq += 1
        beat = wire.Heartbeat(seq=self._beat_seq, live_fences=self._holdings.live_fences())
        self._beats[self._beat_seq] = clock.boottime_micros()
        await write_or_raise(call, wire.AgentMessage(heartbeat=beat))

    async def _report(self, call: Any) -> None:
        self._report_seq += 1
        report = self._holdings.take_news(_ATTEMPTS_PER_REPORT, clock.boottime_micros())
        report.seq = self._report_seq
        self._reports[report.seq] = report
        await write_or_raise(call, wire.AgentMessage(report=report))
