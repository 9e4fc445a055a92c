"""What a light agent holds when only speed is asked for: every attempt ends well, at once or after a while.

Knows no lease and no sheet, so it is nothing to test faults with (`light_attempts.py` is); it costs a few microseconds
for each attempt, so that a measured server shares its machine with next to nobody. An attempt that ends at once is told
of once, start and end together. Next: `light_session.py`, which tells it.
"""

# ruff: noqa: ARG002 - the verbs of `Held`, of which this needs less

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from styx.agent.v1 import agent_service_pb2 as wire
from styx.v1 import tasks_pb2
from styx_agent import codec

_STARTED = wire.AttemptReport(state=tasks_pb2.Attempt.RUNNING, started_ago=codec.duration(0))
_ENDED = wire.AttemptReport(
    state=tasks_pb2.Attempt.ENDED,
    started_ago=codec.duration(0),
    ended_ago=codec.duration(0),
    outcome=tasks_pb2.Outcome(kind=tasks_pb2.Outcome.EXITED, exit_code=0),
)


_SPREAD = 2_654_435_761
"""Odd, and far from all powers of two: its multiples lie evenly in 32 bits."""


class _Attempt(NamedTuple):
    due_micros: int
    fence: int
    task_id: int
    number: int


class Tally:
    """What all agents of a crew did together, and whether they may.

    Attributes:
        is_open: while it is not, attempts are held and nothing is said of them but in beats.
        ended: how many ends the servers have stored.
        received: when each task came to its agent, on CLOCK_BOOTTIME; None: nobody wants to know.
    """

    def __init__(self, *, is_open: bool = True, keeps_times: bool = False) -> None:
        self.is_open = is_open
        self.ended = 0
        self.received: dict[int, int] | None = {} if keeps_times else None
        self._changed = asyncio.Event()

    def add(self, ends: int) -> None:
        """So many more ends are stored."""
        self.ended += ends
        self._changed.set()

    def came(self, orders: Sequence[wire.Assignment], now: int) -> None:
        """These have come to an agent."""
        if self.received is not None:
            self.received.update((order.task_id, now) for order in orders)
            self._changed.set()

    async def until_ended(self, count: int) -> None:
        """Waits until so many ends are stored in all."""
        while self.ended < count:
            await self._change()

    async def until_received(self, task_ids: Iterable[int]) -> None:
        """Waits until each of these has come to an agent."""
        assert self.received is not None
        for task_id in task_ids:
            while task_id not in self.received:
                await self._change()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


class Answers:
    """The attempts of one agent.

    Args:
        hold_micros: how long they last, give or take a half: those that started together must not end together. 0: each
            has ended when it has started.
    """

    def __init__(self, tally: Tally, hold_micros: int = 0) -> None:
        self._tally = tally
        self._hold_micros = hold_micros
        self._starts: deque[_Attempt] = deque()
        self._later: list[_Attempt] = []
        self._over: deque[_Attempt] = deque()
        self._told: dict[int, _Attempt] = {}

    # What the server says.

    def extend(self, sent_micros: int, window_micros: int) -> None:
        """No lease is kept here."""

    def assign(self, orders: Sequence[wire.Assignment], now: int) -> None:
        """New attempts; none ever comes twice, because sessions are not lost while speed is measured."""
        self._tally.came(orders, now)
        for order in orders:
            attempt = _Attempt(now + self._hold(order.fence), order.fence, order.task_id, order.attempt)
            if self._hold_micros:
                self._starts.append(attempt)
                heapq.heappush(self._later, attempt)
            else:
                self._over.append(attempt)

    def obey(self, verdict: wire.Verdict, now: int) -> None:
        """What the server makes of an attempt that Hello listed."""
        if verdict.action == wire.Verdict.FORGET or verdict.end_acked:
            self.disown([verdict.fence])
        elif verdict.action == wire.Verdict.STOP:
            self.stop(verdict.fence, now)

    def stop(self, fence: int, now: int) -> None:
        """The server wants an end."""
        self._over.extend(each for each in self._later if each.fence == fence)
        self._later = sorted(each for each in self._later if each.fence != fence)

    def disown(self, fences: Iterable[int]) -> None:
        """The server says that these are not this agent's (any more)."""
        for gone in set(fences):
            self._told.pop(gone, None)
            self._starts, self._later, self._over = (
                deque(each for each in queue if each.fence != gone) for queue in (self._starts, self._later, self._over)
            )

    def stored(self, report: wire.Report) -> None:
        """The server has stored a report."""
        ended = [each.fence for each in report.attempts if each.state == tasks_pb2.Attempt.ENDED]
        for fence in ended:
            self._told.pop(fence, None)
        self._tally.add(len(ended))

    # What happens here.

    def pass_time(self, now: int) -> None:
        """Ends what has lasted long enough."""
        while self._later and self._later[0].due_micros <= now:
            self._over.append(heapq.heappop(self._later))

    def release(self, now: int) -> None:
        """Ends all that lives; what comes later ends at once."""
        self._hold_micros = 0
        self._over.extend(self._later)
        self._later.clear()

    def next_due(self) -> int | None:
        """When the next attempt ends by itself."""
        return self._later[0].due_micros if self._later else None

    def _hold(self, fence: int) -> int:
        return self._hold_micros // 2 + self._hold_micros * (fence * _SPREAD % 2**32) // 2**32

    # What is said about it.

    @property
    def has_news(self) -> bool:
        """Whether there is something to report."""
        return self._tally.is_open and bool(self._over or self._starts)

    @property
    def is_settled(self) -> bool:
        """Whether the server knows everything."""
        return not (self._starts or self._over or self._told)

    def __len__(self) -> int:
        return len(self._later) + len(self._over) + len(self._told)

    def live_fences(self) -> list[int]:
        """Everything of which no end was told."""
        return [each.fence for queue in (self._later, self._over) for each in queue]

    def for_hello(self, now: int) -> list[wire.HeldAttempt]:
        """Everything that is held."""
        live = [_held(each) for queue in (self._later, self._over) for each in queue]
        return live + [_held(each, unacked=True) for each in self._told.values()]

    def new_session(self) -> None:
        """What was told to an earlier session and not acked is news again."""
        self._over.extendleft(self._told.values())
        self._told.clear()

    def take_news(self, count: int, now: int) -> wire.Report:
        """The oldest news, at most so many."""
        report = wire.Report()
        while self._starts and len(report.attempts) < count:
            _add(report, _STARTED, self._starts.popleft())
        while self._over and len(report.attempts) < count:
            over = self._over.popleft()
            self._told[over.fence] = over
            _add(report, _ENDED, over)
        return report


def _add(report: wire.Report, kind: wire.AttemptReport, attempt: _Attempt) -> None:
    told = report.attempts.add()
    told.CopyFrom(kind)
    told.fence, told.task_id = attempt.fence, attempt.task_id


def _held(attempt: _Attempt, *, unacked: bool = False) -> wire.HeldAttempt:
    state = tasks_pb2.Attempt.ENDED if unacked else tasks_pb2.Attempt.RUNNING
    held = wire.HeldAttempt(fence=attempt.fence, task_id=attempt.task_id, attempt=attempt.number, state=state)
    if unacked:
        report = wire.Report()
        _add(report, _ENDED, attempt)
        held.unacked_report.CopyFrom(report.attempts[0])
    return held
