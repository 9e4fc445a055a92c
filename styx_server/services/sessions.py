"""The agents' sessions: opening with a reconciliation, beats, orders, and the end.

A session is never repaired, only replaced; its epoch is the fence of everything that comes through it. The stream
itself belongs to `transport`; here it is something that takes commands.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import structlog

from styx_server.clock import Clock
from styx_server.core.errors import Superseded
from styx_server.core.lease import USUAL_TERMS, LeaseTerms
from styx_server.core.placement.capacity import AgentSlots
from styx_server.core.session import Hello, StopOrder
from styx_server.core.task import AgentId, Fence
from styx_server.services.greeting import Greeting
from styx_server.services.group_commit import GroupCommit
from styx_server.services.reports import Reported, Reports
from styx_server.services.scheduling import Scheduling
from styx_server.services.session_registry import Outlet, Session, SessionRegistry
from styx_server.store.database import Database

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class BeatAnswer:
    """What a stored beat is answered with."""

    stops: list[StopOrder]
    unknown: list[Fence]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parties:
    """Who acts on what agents say, and on which terms."""

    scheduling: Scheduling
    reports: Reports
    terms: LeaseTerms = USUAL_TERMS


class Sessions:
    """Opens sessions, keeps their leases, ends them."""

    def __init__(
        self, database: Database, clock: Clock, registry: SessionRegistry, greeting: Greeting, parties: Parties
    ) -> None:
        self._database = database
        self._clock = clock
        self._registry = registry
        self._greeting = greeting
        self._scheduling = parties.scheduling
        self._reports = parties.reports
        self._terms = parties.terms
        self.beats: GroupCommit[Session, bool] = GroupCommit("beats", self._renew, clock=clock, patient=True)

    async def open(self, hello: Hello, outlet: Outlet) -> Session:
        """Opens a session: a new epoch, one view of what the agent holds, and work may come.

        Raises:
            NotFound: there is no such agent any more.
            Superseded: a newer session of the agent was quicker.
            Unavailable: the database is away; the agent tries again.
        """
        self._refuse_clone(hello)
        entry = await self._greeting.enter(hello)
        self._end_older(hello.agent_id, entry.epoch)
        told = [held.report for held in hello.held if held.report is not None]
        await self._reports.add_many(
            [Reported(agent_id=hello.agent_id, epoch=entry.epoch, report=report) for report in told]
        )
        view = await self._greeting.reconcile(hello, same_boot=entry.same_boot)
        ends = [(attempt.task_id, attempt.fence, outcome) for attempt, outcome in view.found.vanished]
        # Void as soon as a newer session has begun: what that one was given, this view cannot know.
        await self._reports.end_many(hello.agent_id, ends, lease_seq=entry.lease_seq)
        session = Session(
            agent_id=hello.agent_id,
            epoch=entry.epoch,
            supervisor_id=hello.supervisor_id,
            outlet=outlet,
            last_beat=self._clock.monotonic(),
            draining=hello.draining,
            drained=entry.drained,
            known=view.known,
        )
        if not self._registry.put(session):
            raise Superseded("a newer session of this agent took over")
        # Before any order: what follows goes through the same queue.
        outlet.welcome(entry.epoch, view.found.verdicts)
        if looked_at := self._registry.looked_at(hello.agent_id):
            outlet.interest(looked_at)
        slots = AgentSlots(
            agent_id=hello.agent_id,
            pool=entry.pool,
            labels=entry.labels,
            total=hello.capacity,
            accepting=session.accepting,
        )
        self._scheduling.agent_here(slots, view.reserved)
        vanished = len(view.found.vanished)
        _log.info("session_opened", agent=hello.agent_id, epoch=entry.epoch, held=len(hello.held), vanished=vanished)
        return session

    async def close(self, session: Session, *, goodbye: bool) -> None:
        """Ends a session because its stream ended; a newer one is not touched. What runs goes on.

        Args:
            session: the one whose stream ended.
            goodbye: the agent left on purpose.
        """
        if self._registry.remove(session):
            self._scheduling.set_accepting(session.agent_id, False)
        await self._database.execute("close_session", agent_id=session.agent_id, epoch=session.epoch, goodbye=goodbye)
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
        if session.silent or draining != session.draining:
            session.silent, session.draining = False, draining
            self._scheduling.set_accepting(session.agent_id, session.accepting)
        stops = [known.stop for known in session.known.values() if known.stop is not None]
        return BeatAnswer(stops=stops, unknown=await self._confirm_unknown(session, suspects))

    def watch_silence(self) -> None:
        """Takes sessions without a beat for too long out of service; a beat brings them back."""
        now = self._clock.monotonic()
        for session in self._registry.all():
            if not session.silent and now - session.last_beat > self._terms.unreachable_seconds:
                session.silent = True
                self._scheduling.set_accepting(session.agent_id, False)
                _log.warning("agent_silent", agent=session.agent_id, epoch=session.epoch)

    def _refuse_clone(self, hello: Hello) -> None:
        """Two programs with one identity would each have the other's attempts called dead.

        A supervisor that was replaced closes its link's stream before the next Hello comes, so an open session that
        was heard of lately and belongs to another supervisor is somebody else: a copied data folder, a cloned machine.
        """
        there = self._registry.get(hello.agent_id)
        if there is None or there.supervisor_id == hello.supervisor_id:
            return
        if self._clock.monotonic() - there.last_beat < self._terms.unreachable_seconds:
            _log.error("agent_cloned", agent=hello.agent_id, epoch=there.epoch)
            raise Superseded(
                f"another program with the identity of agent a{hello.agent_id} is connected; was its data folder or "
                "its machine copied? Start this one with a data folder of its own and a new join token"
            )

    def _end_older(self, agent_id: AgentId, epoch: int) -> None:
        old = self._registry.get(agent_id)
        if old is not None and old.epoch < epoch:
            self._registry.remove(old)
            self._scheduling.set_accepting(agent_id, False)
            old.outlet.end("a newer session of this agent took over")

    async def _renew(self, sessions: list[Session]) -> list[bool]:
        rows = await self._database.fetch(
            "renew_leases",
            agent_ids=[session.agent_id for session in sessions],
            epochs=[session.epoch for session in sessions],
            now=None,
        )
        renewed = {(row["agent_id"], row["epoch"]) for row in rows}
        return [(session.agent_id, session.epoch) in renewed for session in sessions]

    async def _confirm_unknown(self, session: Session, suspects: list[Fence]) -> list[Fence]:
        """Which of these fences are live nowhere: an order to kill is only given on the database's word."""
        if not suspects:
            return []
        rows = await self._database.fetch("find_live_fences", fences=suspects, agent_id=session.agent_id)
        live = {row["fence"] for row in rows}
        return [fence for fence in suspects if fence not in live]
