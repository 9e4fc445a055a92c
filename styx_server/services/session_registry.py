"""The open sessions on this server, and the orders that go through them.

Knows nothing of how a session opens or ends (`sessions.py`), nor of the stream behind it (`transport`).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Protocol

from styx_server.core.errors import StyxError
from styx_server.core.session import Assignment, StopOrder, Verdict
from styx_server.core.task import AgentId, Fence, TaskId


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
        draining: the agent itself wants no new work.
        drained: an operator took it out of service.
        silent: it has not been heard of for too long.
        removed: set when the agent was removed: whatever else it has open here ends too.
    """

    agent_id: AgentId
    epoch: int
    supervisor_id: str
    outlet: Outlet
    last_beat: float
    draining: bool
    drained: bool = False
    silent: bool = False
    known: dict[Fence, Known] = field(default_factory=dict)
    removed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def accepting(self) -> bool:
        """Whether it may get new work."""
        return not (self.draining or self.drained or self.silent)


class SessionRegistry:
    """Sessions by agent, and who looks at the output of what: that outlives a session."""

    def __init__(self) -> None:
        self._sessions: dict[AgentId, Session] = {}
        self._lookers: dict[AgentId, dict[Fence, int]] = {}

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

    def epoch_of(self, agent_id: AgentId) -> int:
        """The epoch of an agent's session, 0 when it has none here."""
        session = self._sessions.get(agent_id)
        return session.epoch if session else 0

    def all(self) -> list[Session]:
        """Every open session."""
        return list(self._sessions.values())

    def dispatch(self, agent_id: AgentId, assignments: list[Assignment]) -> bool:
        """Sends assignments; False when the agent has no session here."""
        session = self._sessions.get(agent_id)
        if session is None:
            return False
        for item in assignments:
            session.known[item.fence] = Known(item.task_id, item.attempt)
        session.outlet.assign(assignments)
        return True

    def stop(self, agent_id: AgentId, orders: list[StopOrder]) -> None:
        """Sends orders to stop; each beat repeats them until the attempt is over."""
        session = self._sessions.get(agent_id)
        if session is None:
            return
        for order in orders:
            if known := session.known.get(order.fence):
                known.stop = order
        session.outlet.stop(orders)

    def attempt_over(self, agent_id: AgentId, fence: Fence, *, output_complete: bool) -> None:
        """Notes that an attempt is over; it is forgotten once its output is complete."""
        session = self._sessions.get(agent_id)
        if session is None or fence not in session.known:
            return
        if output_complete:
            del session.known[fence]
        else:
            session.known[fence].stop = None

    def follow(self, agent_id: AgentId, fence: Fence, change: int) -> None:
        """Counts who looks at the output of an attempt (`change` is 1 or -1), and tells the agent."""
        counts = self._lookers.setdefault(agent_id, {})
        counts[fence] = counts.get(fence, 0) + change
        if counts[fence] <= 0:
            del counts[fence]
        if not counts:
            del self._lookers[agent_id]
        if session := self._sessions.get(agent_id):
            session.outlet.interest(self.looked_at(agent_id))

    def looked_at(self, agent_id: AgentId) -> list[Fence]:
        """Attempts on an agent whose output somebody looks at."""
        return list(self._lookers.get(agent_id, ()))
