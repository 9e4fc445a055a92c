"""What a light agent holds: attempts without processes, under the rules of the link and of the supervisor together.

No input, no output, no clock: times are given, in microseconds of CLOCK_BOOTTIME. The sheet is shared by all agents of
a crew and knows what none of them alone can see: whether a task runs twice. Next: `light_session.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from styx.agent.v1 import agent_service_pb2 as wire
from styx.v1 import tasks_pb2
from styx_agent import codec

_DISCONNECT_MICROS = 900_000_000
_UNWANTED = ("EXITED", "LOST", "REJECTED", "CANCELLED", "disowned")
_LIVE_STATES = {False: tasks_pb2.Attempt.RUNNING, True: tasks_pb2.Attempt.ENDED}


@dataclass(slots=True, kw_only=True)
class LightAttempt:
    """One attempt; it starts as soon as it is assigned.

    Attributes:
        disconnect_micros: None: never stopped for silence.
        due_micros: when it ends by itself; None: only when somebody says so.
        kind: how it ended; empty while it lives.
    """

    fence: int
    task_id: int
    number: int
    disconnect_micros: int | None
    started_micros: int
    due_micros: int | None
    ended_micros: int | None = None
    kind: str = ""
    start_acked: bool = False

    def report(self, now: int) -> wire.AttemptReport:
        """What happened to it, as of now."""
        report = wire.AttemptReport(fence=self.fence, task_id=self.task_id, state=_LIVE_STATES[bool(self.kind)])
        if self.kind != "REJECTED":
            report.started_ago.CopyFrom(codec.duration(now - self.started_micros))
        if self.ended_micros is not None:
            report.ended_ago.CopyFrom(codec.duration(now - self.ended_micros))
            report.outcome.kind = tasks_pb2.Outcome.Kind.Value(self.kind)  # type: ignore[assignment]
            if self.kind == "EXITED":
                report.outcome.exit_code = 0
        return report

    def held(self, now: int) -> wire.HeldAttempt:
        """As Hello lists it."""
        held = wire.HeldAttempt(
            fence=self.fence,
            task_id=self.task_id,
            attempt=self.number,
            state=_LIVE_STATES[bool(self.kind)],
            start_acked=self.start_acked,
        )
        if self.kind:
            held.unacked_report.CopyFrom(self.report(now))
        return held


@dataclass(slots=True)
class Sheet:
    """What became of all attempts of a crew.

    Attributes:
        counts: `started`, `repeated` (assigned again), `disowned` (live, and the server said kill), `overlapped`, and
            the kinds of ends.
    """

    counts: Counter[str] = field(default_factory=Counter)
    _live: dict[int, dict[int, Holdings]] = field(default_factory=dict)

    def begin(self, attempt: LightAttempt, holder: Holdings) -> None:
        """An attempt starts; no other one of its task may be alive now, whoever holds it."""
        others = self._live.setdefault(attempt.task_id, {})
        for other in list(others.values()):
            other.pass_time(attempt.started_micros)
        self.counts["started"] += 1
        self.counts["overlapped"] += bool(others)
        others[attempt.fence] = holder

    def end(self, attempt: LightAttempt, kind: str) -> None:
        """An attempt is over."""
        self.counts[kind] += 1
        others = self._live.get(attempt.task_id, {})
        others.pop(attempt.fence, None)
        if not others:
            self._live.pop(attempt.task_id, None)

    def unwanted(self, wanted: int) -> int:
        """What should not be on the sheet while that many tasks are held: ends, and starts beyond the first ones."""
        return self.counts["started"] - wanted + sum(self.counts[kind] for kind in _UNWANTED)


class Holdings:
    """The attempts of one agent, and the lease that they live under.

    Args:
        hold_micros: how long each attempt lasts; None: until `release`.
    """

    def __init__(self, sheet: Sheet, hold_micros: int | None) -> None:
        self._sheet = sheet
        self._hold_micros = hold_micros
        self._attempts: dict[int, LightAttempt] = {}
        self._seen: set[int] = set()
        self._news: dict[int, None] = {}
        self._lease_micros = 0
        self._window_micros = 0

    # What the server says.

    def extend(self, sent_micros: int, window_micros: int) -> None:
        """A beat sent at that time is stored."""
        self._lease_micros, self._window_micros = max(self._lease_micros, sent_micros), window_micros

    def assign(self, orders: Sequence[wire.Assignment], now: int) -> None:
        """New attempts; one that is known already is left alone."""
        for order in orders:
            self._assign(order, now)

    def _assign(self, order: wire.Assignment, now: int) -> None:
        if order.fence in self._seen:
            self._sheet.counts["repeated"] += 1
            return
        self._seen.add(order.fence)
        limits = tasks_pb2.TaskSpec.FromString(order.spec).disconnect_timeout
        attempt = LightAttempt(
            fence=order.fence,
            task_id=order.task_id,
            number=order.attempt,
            disconnect_micros=None if limits.never else codec.micros(limits.after) or _DISCONNECT_MICROS,
            started_micros=now,
            due_micros=None if self._hold_micros is None else now + self._hold_micros,
        )
        self._attempts[order.fence] = attempt
        self._news[order.fence] = None
        if now >= self._lease_micros + self._window_micros:
            self._end(attempt, "REJECTED", now)
            return
        self._sheet.begin(attempt, self)
        self.pass_time(now)

    def obey(self, verdict: wire.Verdict, now: int) -> None:
        """What the server makes of an attempt that Hello listed."""
        if verdict.action == wire.Verdict.FORGET:
            self.disown([verdict.fence])
            return
        if verdict.start_acked:
            self.start_recorded([verdict.fence])
        if verdict.end_acked:
            self.end_stored(verdict.fence)
        if verdict.action == wire.Verdict.STOP:
            self.stop(verdict.fence, now)

    def stop(self, fence: int, now: int) -> None:
        """The server wants an end."""
        attempt = self._attempts.get(fence)
        if attempt is not None and not attempt.kind:
            self._end(attempt, "CANCELLED", now)

    def disown(self, fences: Iterable[int]) -> None:
        """The server says that these are not this agent's (any more)."""
        for fence in fences:
            attempt = self._attempts.pop(fence, None)
            self._news.pop(fence, None)
            if attempt is not None and not attempt.kind:
                self._sheet.end(attempt, "disowned")

    def start_recorded(self, fences: Iterable[int]) -> None:
        """The server has stored that these have started."""
        for fence in fences:
            if attempt := self._attempts.get(fence):
                attempt.start_acked = True

    def stored(self, report: wire.Report) -> None:
        """The server has stored a report."""
        for each in report.attempts:
            self.start_recorded([each.fence])
            if each.state == tasks_pb2.Attempt.ENDED:
                self.end_stored(each.fence)

    def end_stored(self, fence: int) -> None:
        """The server has stored how this ended."""
        self._attempts.pop(fence, None)
        self._news.pop(fence, None)

    # What happens here.

    def pass_time(self, now: int) -> None:
        """Ends what has lasted long enough, and what no lease covers any more."""
        for attempt in [each for each in self._attempts.values() if not each.kind]:
            span = attempt.disconnect_micros if attempt.start_acked else self._window_micros
            if attempt.due_micros is not None and attempt.due_micros <= now:
                self._end(attempt, "EXITED", attempt.due_micros)
            elif span is not None and self._lease_micros + span <= now:
                self._end(attempt, "LOST", self._lease_micros + span)

    def release(self, now: int) -> None:
        """Ends all that lives, in success; what comes later ends at once."""
        self._hold_micros = 0
        for attempt in [each for each in self._attempts.values() if not each.kind]:
            self._end(attempt, "EXITED", now)

    def next_due(self) -> int | None:
        """When the next attempt ends by itself."""
        return min(
            (each.due_micros for each in self._attempts.values() if each.due_micros and not each.kind), default=None
        )

    # What is said about it.

    @property
    def is_settled(self) -> bool:
        """Whether the server knows everything: each start of what lives, and each end."""
        return not self._news and all(each.start_acked and not each.kind for each in self._attempts.values())

    def __len__(self) -> int:
        return len(self._attempts)

    def live_fences(self) -> list[int]:
        """Everything that lives."""
        return [each.fence for each in self._attempts.values() if not each.kind]

    def for_hello(self, now: int) -> list[wire.HeldAttempt]:
        """Everything that is held; nothing of it has been told to the session that begins."""
        self.pass_time(now)
        return [each.held(now) for each in self._attempts.values()]

    def new_session(self) -> None:
        """What was told to an earlier session and not acked is news again."""
        self._news = {each.fence: None for each in self._attempts.values() if each.kind or not each.start_acked}

    @property
    def has_news(self) -> bool:
        """Whether there is something to report."""
        return bool(self._news)

    def take_news(self, count: int, now: int) -> wire.Report:
        """The oldest news as of now, at most so many."""
        fences = list(self._news)[:count]
        for fence in fences:
            del self._news[fence]
        return wire.Report(attempts=[self._attempts[fence].report(now) for fence in fences])

    def _end(self, attempt: LightAttempt, kind: str, now: int) -> None:
        attempt.kind, attempt.ended_micros = kind, now
        self._news[attempt.fence] = None
        self._sheet.end(attempt, kind)
