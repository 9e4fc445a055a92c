"""The open sessions on this server, and the orders that go through them.

Knows nothing of how a session opens or ends (`sessions.py`), nor of the stream behind it (`transport`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from styx_server.core.errors import StyxError
from styx_server.core.session import Assignment, PreemptionNotice, StopOrder, Verdict
from styx_server.core.task import AgentId, Fence, Outcome, TaskId


class Outlet(Protocol):
    """Where commands for one agent go; none of these waits."""

    def welcome(self, epoch: int, verdicts: tuple[Verdict, ...]) -> None:
        """The session is open."""
        ...

    def assign(self, assignments: list[Assignment]) -> None:
        """Start these."""
        ...

    def stop(self, orders: list[StopOrder]) -> None:
        """Stop these."""
        ...

    def interest(self, fences: list[Fence]) -> None:
        """Somebody looks at the output of these, and of no others."""
        ...

    def end(self, reason: str) -> None:
        """The session is over: a newer one took its place."""
        ...

    def end_with(self, error: StyxError) -> None:
        """The session is over, and the agent is told why."""
        ...


@dataclass(slots=True)
class Known:
    """An attempt that a session is responsible for, until its end and its output are complete."""

    task_id: TaskId
    attempt: int
    stop: StopOrder | None = None


@dataclass(slots=True, kw_only=True)
class Session:
    """One open session on this server.

    Attributes:
        last_beat: when its last beat was stored, on the monotonic clock in seconds.
        leaving: the agent itself wants no new work.
        vanished: attempts that Hello did not name, and how each must have ended.
        confirmed: a beat came through it, so its agent lives in it. Nothing is concluded from Hello before: a server
            may act on one whose agent gave up waiting and is in another session by now.
        owing: the agent holds something that has not ended, or of which something is not stored yet.
        notice: the agent's machine is being taken back.
        noticed: that has been acted on.
        removed: set when the agent was removed: whatever else it has open here ends too.
    """

    agent_id: AgentId
    epoch: int
    supervisor_id: str
    outlet: Outlet
    last_beat: float
    leaving: bool
    vanished: Sequence[tuple[TaskId, Fence, Outcome]] = ()
    confirmed: bool = False
    owing: bool = False
    notice: PreemptionNotice | None = None
    noticed: bool = False
    known: dict[Fence, Known] = field(default_factory=dict)
    removed: asyncio.Event = field(default_factory=asyncio.Event)


class SessionRegistry:
    """Sessions by agent."""

    def __init__(self) -> None:
        self._sessions: dict[AgentId, Session] = {}
        self._looks: list[set[Fence]] = []

    def put(self, session: Session) -> bool:
        """Makes this the session of its agent; False when a newer one is there already."""
        there = self._sessions.get(session.agent_id)
        if there is not None and there.epoch > session.epoch:
            return False
        self._sessions[session.agent_id] = session
        return True

    def remove(self, session: Session) -> bool:
        """Takes a session out; False when a newer one is in its place."""
        if self._sessions.get(session.agent_id) is not session:
            return False
        del self._sessions[session.agent_id]
        return True

    def get(self, agent_id: AgentId) -> Session | None:
        """The session of an agent, if it is open on this server."""
        return self._sessions.get(agent_id)

    def all(self) -> list[Session]:
        """Every open session."""
        return list(self._sessions.values())

    @contextmanager
    def look(self) -> Iterator[set[Fence]]:
        """For the time in which somebody learns from the database what is to be started.

        Gives the attempts that end meanwhile: an answer that is late calls them live, and a second order to start
        would run them again.
        """
        over: set[Fence] = set()
        self._looks.append(over)
        try:
            yield over
        finally:
            self._looks = [look for look in self._looks if look is not over]

    def withdraw(self, fences: Iterable[Fence]) -> None:
        """These are not to be sent any more by anybody who has read of them already."""
        fences = set(fences)
        for over in self._looks:
            over.update(fences)

    def dispatch(self, agent_id: AgentId, epoch: int, assignments: Iterable[Assignment], over: set[Fence]) -> bool:
        """Sends assignments, each once in a session; False when the session that is meant is not open here.

        Args:
            agent_id: the agent.
            epoch: of the session in which they are assigned.
            assignments: what to start.
            over: of the `look` in which they were read.
        """
        session = self._sessions.get(agent_id)
        if session is None or session.epoch != epoch:
            return False
        fresh = [item for item in assignments if item.fence not in session.known and item.fence not in over]
        for item in fresh:
            session.known[item.fence] = Known(item.task_id, item.attempt)
        if fresh:
            session.outlet.assign(fresh)
        return True

    def stop(self, agent_id: AgentId, orders: list[StopOrder]) -> bool:
        """Sends orders to stop; each beat repeats them until the attempt is over.

        Returns:
            False when some could not be sent: there is no session here, or it does not know them yet.
        """
        session = self._sessions.get(agent_id)
        if session is None:
            return False
        sendable = [order for order in orders if order.fence in session.known]
        for order in sendable:
            session.known[order.fence].stop = order
        if sendable:
            session.outlet.stop(sendable)
        return len(sendable) == len(orders)

    def attempt_over(self, agent_id: AgentId, fence: Fence, *, output_complete: bool) -> None:
        """Notes that an attempt is over; it is forgotten once its output is complete."""
        for look in self._looks:
            look.add(fence)
        session = self._sessions.get(agent_id)
        if session is None or fence not in session.known:
            return
        if output_complete:
            del session.known[fence]
        else:
            session.known[fence].stop = None
