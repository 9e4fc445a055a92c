"""The agents' sessions: opening with a reconciliation, beats, orders, and the end.

A session is never repaired, only replaced; its epoch is the fence of everything that comes through it. The stream
itself belongs to `transport`; here it is something that takes commands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

import structlog

from styx_server.clock import Clock
from styx_server.core.errors import NotFound
from styx_server.core.placement.capacity import AgentSlots, Reservation
from styx_server.core.session import (
    Action,
    Assignment,
    EndedAttempt,
    Hello,
    LiveAttempt,
    LogStream,
    Reconciliation,
    StopOrder,
    Verdict,
    reconcile,
)
from styx_server.core.states import AttemptState, Desired
from styx_server.core.task import AgentId, Fence, TaskId
from styx_server.services.group_commit import GroupCommit
from styx_server.services.reports import Reported, Reports
from styx_server.services.scheduling import Scheduling
from styx_server.services.shapes import Shapes
from styx_server.store.database import Database, Row
from styx_server.store.rows import capacity_to_json

_log = structlog.get_logger()

UNREACHABLE_SECONDS = 35.0
"""An agent without a beat for this long gets no new work; two beats of 10 s and a slow commit fit in it."""


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
        """The session is over: a newer one took its place, or the agent was removed."""
        ...


@dataclass(slots=True)
class Known:
    """An attempt that a session is responsible for, until its end and its output are complete."""

    task_id: TaskId
    attempt: int
    stop: StopOrder | None = None


@dataclass(slots=True, kw_only=True)
class Session:
    """One open session on this server."""

    agent_id: AgentId
    epoch: int
    outlet: Outlet
    last_beat: float
    draining: bool
    known: dict[Fence, Known] = field(default_factory=dict)
    interest: dict[Fence, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class BeatAnswer:
    """What a stored beat is answered with."""

    stops: list[StopOrder]
    unknown: list[Fence]


class Sessions:
    """All open sessions on this server.

    Args:
        replica_id: this server process.
    """

    def __init__(
        self,
        database: Database,
        shapes: Shapes,
        clock: Clock,
        *,
        replica_id: UUID,
        scheduling: Scheduling,
        reports: Reports,
    ) -> None:
        self._database = database
        self._shapes = shapes
        self._clock = clock
        self._replica_id = replica_id
        self._scheduling = scheduling
        self._reports = reports
        self._sessions: dict[AgentId, Session] = {}
        self.beats: GroupCommit[Session, bool] = GroupCommit("beats", self._renew, clock=clock, patient=True)

    async def open(self, hello: Hello, outlet: Outlet) -> Session:
        """Opens a session: a new epoch, one view of what the agent holds, and work may come.

        Raises:
            NotFound: there is no such agent any more.
            Unavailable: the database is away; the agent tries again.
        """
        before, epoch, agent = await self._enter(hello)
        if old := self._sessions.pop(hello.agent_id, None):
            old.outlet.end("a newer session of this agent took over")
        for held in hello.held:
            if held.report is not None:
                reported = Reported(agent_id=hello.agent_id, epoch=epoch, report=held.report)
                await self._reports.add(reported)
        found, known, live = await self._reconcile(hello, same_boot=before["boot_id"] in ("", hello.boot_id))
        async with asyncio.TaskGroup() as group:
            for attempt, outcome in found.vanished:
                group.create_task(self._reports.end(hello.agent_id, attempt.task_id, attempt.fence, outcome))
        vanished = {attempt.fence for attempt, _ in found.vanished}
        session = Session(
            agent_id=hello.agent_id,
            epoch=epoch,
            outlet=outlet,
            last_beat=self._clock.monotonic(),
            draining=hello.draining,
            known=known,
        )
        outlet.welcome(epoch, found.verdicts)
        self._sessions[hello.agent_id] = session
        slots = AgentSlots(
            agent_id=hello.agent_id,
            pool=agent["pool"],
            labels=agent["labels"],
            total=hello.capacity,
            accepting=not (agent["draining"] or hello.draining),
        )
        reserved = await self._reservations([row for row in live if row["fence"] not in vanished])
        self._scheduling.agent_here(slots, reserved)
        _log.info("session_opened", agent=hello.agent_id, epoch=epoch, held=len(hello.held), vanished=len(vanished))
        return session

    async def close(self, session: Session) -> None:
        """Ends a session because its stream ended; a newer one is not touched. What runs goes on."""
        if self._sessions.get(session.agent_id) is session:
            del self._sessions[session.agent_id]
            self._scheduling.set_accepting(session.agent_id, False)
        await self._database.execute("close_session", agent_id=session.agent_id, epoch=session.epoch)
        _log.info("session_closed", agent=session.agent_id, epoch=session.epoch)

    def suspects(self, session: Session, live: Iterable[Fence]) -> list[Fence]:
        """Attempts that an agent says are live and this session does not know.

        To be called when the beat arrives, before any later message is acted on: a later report may end an attempt
        that the beat rightly calls live.
        """
        return [fence for fence in live if fence not in session.known]

    async def beat(self, session: Session, suspects: list[Fence], draining: bool) -> BeatAnswer | None:
        """Stores a beat; returns what to answer, or None when a newer session has taken over."""
        if not await self.beats.add(session):
            return None
        session.last_beat = self._clock.monotonic()
        if draining != session.draining:
            session.draining = draining
            self._scheduling.set_accepting(session.agent_id, not draining)
        stops = [known.stop for known in session.known.values() if known.stop is not None]
        return BeatAnswer(stops=stops, unknown=await self._confirm_unknown(session, suspects))

    def watch_silence(self) -> None:
        """Takes sessions without a beat for too long out of service; a beat brings them back."""
        now = self._clock.monotonic()
        for session in self._sessions.values():
            silent = now - session.last_beat > UNREACHABLE_SECONDS
            if silent:
                self._scheduling.set_accepting(session.agent_id, False)

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
        session = self._sessions.get(agent_id)
        if session is None:
            return
        count = session.interest.get(fence, 0) + change
        if count > 0:
            session.interest[fence] = count
        else:
            session.interest.pop(fence, None)
        session.outlet.interest(list(session.interest))

    async def _enter(self, hello: Hello) -> tuple[Row, int, Row]:
        async with self._database.transaction() as transaction:
            before = await transaction.fetch_row("lock_lease", agent_id=hello.agent_id)
            if before is None:
                raise NotFound(f"agent a{hello.agent_id} is not known any more; join again", reason="AGENT_NOT_FOUND")
            row = await transaction.fetch_row(
                "open_session",
                agent_id=hello.agent_id,
                last_epoch=hello.last_epoch,
                replica_id=self._replica_id,
                boot_id=hello.boot_id,
                supervisor_id=hello.supervisor_id,
                now=None,
            )
            agent = await transaction.fetch_row(
                "update_agent",
                id=hello.agent_id,
                labels=dict(hello.labels),
                capacity=capacity_to_json(hello.capacity),
                facts=dict(hello.facts),
                isolation=hello.isolation,
                version=hello.version,
            )
            assert row is not None
            assert agent is not None
            return before, row["epoch"], agent

    async def _reconcile(
        self, hello: Hello, *, same_boot: bool
    ) -> tuple[Reconciliation, dict[Fence, Known], list[Row]]:
        live = await self._database.fetch("live_attempts_of", agent_ids=[hello.agent_id])
        held = await self._database.fetch(
            "read_held",
            task_ids=[item.task_id for item in hello.held],
            fences=[item.fence for item in hello.held],
        )
        own = [row for row in held if row["ended_agent_id"] == hello.agent_id]
        ended = [
            EndedAttempt(task_id=TaskId(row["task_id"]), fence=Fence(row["fence"]), attempt=row["ended_number"])
            for row in own
        ]
        positions = await self._positions([item.task_id for item in hello.held])
        found = reconcile(hello.held, [_live(row) for row in live], ended, positions, same_boot=same_boot)
        kept = {verdict.fence: verdict for verdict in found.verdicts if verdict.action is not Action.FORGET}
        known = {
            item.fence: Known(item.task_id, item.attempt, kept[item.fence].stop)
            for item in hello.held
            if item.fence in kept
        }
        return found, known, live

    async def _positions(self, task_ids: list[TaskId]) -> Mapping[Fence, tuple[tuple[LogStream, int], ...]]:
        positions: dict[Fence, tuple[tuple[LogStream, int], ...]] = {}
        for row in await self._database.fetch("get_streams_by_task", task_ids=task_ids):
            fence = Fence(row["fence"])
            positions[fence] = (*positions.get(fence, ()), (LogStream(row["stream"]), row["stored_bytes"]))
        return positions

    async def _reservations(self, live: list[Row]) -> dict[Fence, Reservation]:
        return {
            Fence(row["fence"]): Reservation(
                agent_id=AgentId(row["agent_id"]),
                namespace=row["namespace"],
                resources=(await self._shapes.get(row["shape_id"])).resources,
                gpu_indexes=tuple(row["gpu_indexes"] or ()),
            )
            for row in live
        }

    async def _renew(self, sessions: list[Session]) -> list[bool]:
        rows = await self._database.fetch(
            "renew_leases",
            agent_ids=[session.agent_id for session in sessions],
            epochs=[session.epoch for session in sessions],
            now=None,
        )
        renewed = {row["agent_id"] for row in rows}
        return [session.agent_id in renewed for session in sessions]

    async def _confirm_unknown(self, session: Session, suspects: list[Fence]) -> list[Fence]:
        """Which of these fences are live nowhere: an order to kill is only given on the database's word."""
        if not suspects:
            return []
        rows = await self._database.fetch("find_live_fences", fences=suspects, agent_id=session.agent_id)
        live = {row["fence"] for row in rows}
        return [fence for fence in suspects if fence not in live]


def _live(row: Row) -> LiveAttempt:
    grace = row["stop_grace_ms"]
    return LiveAttempt(
        task_id=TaskId(row["id"]),
        fence=Fence(row["fence"]),
        attempt=row["attempt"],
        state=AttemptState(row["attempt_state"]),
        desired=Desired(row["desired"]),
        stop_grace_seconds=None if grace is None else grace / 1000,
    )
