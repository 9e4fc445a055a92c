"""The agents' sessions: opening with a reconciliation, beats, orders, and the end.

A session is never repaired, only replaced; its epoch is the fence of everything that comes through it. The stream
itself belongs to `transport`; here it is something that takes commands.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog

from styx import failpoints
from styx_server.clock import Clock
from styx_server.core.errors import Superseded, Unavailable
from styx_server.core.lease import USUAL_TERMS, LeaseTerms
from styx_server.core.session import Hello, PreemptionNotice, StopOrder
from styx_server.core.task import AgentId, Fence
from styx_server.services.greeting import Entry, Greeting, cloned
from styx_server.services.group_commit import GroupCommit
from styx_server.services.interest import Interest
from styx_server.services.log_streams import LogStreams, StreamKey
from styx_server.services.reports import Reported, Reports
from styx_server.services.session_registry import Outlet, Session, SessionRegistry
from styx_server.store.database import Database

_log = structlog.get_logger()

_OPENINGS_AT_ONCE: Final = 8
"""More of them are no quicker together, and would keep beats and reports from the connections to the database."""
_MANY_SESSIONS: Final = 100
_LINGER_SECONDS: Final = 0.1
"""With that many sessions their beats wait for one another: at 2,000 agents it saves 85 % of PostgreSQL's work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BeatAnswer:
    """What a stored beat is answered with."""

    stops: list[StopOrder]
    unknown: list[Fence]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parties:
    """Who acts on what agents say, and on which terms.

    Attributes:
        streams: what this server remembers of output.
        on_change: told of agents whose sessions began, ended or changed.
        on_notice: told of each agent whose machine is taken back, once in a session.
    """

    reports: Reports
    interest: Interest
    streams: LogStreams
    on_change: Callable[[Iterable[AgentId]], None]
    on_notice: Callable[[AgentId, PreemptionNotice], Awaitable[None]]
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
        self._reports = parties.reports
        self._openings = asyncio.Semaphore(_OPENINGS_AT_ONCE)
        self._interest = parties.interest
        self._streams = parties.streams
        self._on_change = parties.on_change
        self._on_notice = parties.on_notice
        self.beats: GroupCommit[tuple[Session, bool], bool] = GroupCommit(
            "beats", self._renew, clock=clock, patience=lambda _: 1.0
        )
        self.beats.linger = self._linger
        self._terms = parties.terms

    async def open(self, hello: Hello, outlet: Outlet) -> Session:
        """Opens a session: a new epoch, one view of what the agent holds, and work may come.

        When all agents come at once, they take turns; one that has left meanwhile is not waited for.

        Raises:
            NotFound: there is no such agent any more.
            Superseded: a newer session of the agent was quicker.
            Unavailable: the database is away; the agent tries again.
        """
        async with self._openings:
            return await self._open(hello, outlet)

    async def _open(self, hello: Hello, outlet: Outlet) -> Session:
        self._refuse_clone(hello)
        entry = await self._greeting.enter(hello)
        await failpoints.reach("server.hello.committed")
        try:
            return await self._begin(hello, entry, outlet)
        except BaseException:
            # Nobody would ever close it, and work would be given to it.
            with suppress(Unavailable):
                await self._database.execute("close_session", agent_id=hello.agent_id, epoch=entry.epoch, goodbye=False)
            raise

    async def _begin(self, hello: Hello, entry: Entry, outlet: Outlet) -> Session:
        """Makes one view of what the agent holds, and the session of it."""
        self._end_older(hello.agent_id, entry.epoch)
        told = [held.report for held in hello.held if held.report is not None]
        await self._reports.add_many(
            [Reported(agent_id=hello.agent_id, epoch=entry.epoch, report=report) for report in told]
        )
        view = await self._greeting.reconcile(hello, entry)
        for verdict in view.found.verdicts:
            if known := view.known.get(verdict.fence):
                for stream, stored in verdict.logs:
                    self._streams.check(StreamKey(known.task_id, known.attempt, stream), stored)
        session = Session(
            agent_id=hello.agent_id,
            epoch=entry.epoch,
            supervisor_id=hello.supervisor_id,
            outlet=outlet,
            last_beat=self._clock.monotonic(),
            leaving=hello.draining,
            vanished=[(attempt.task_id, attempt.fence, outcome) for attempt, outcome in view.found.vanished],
            known=view.known,
        )
        if not self._registry.put(session):
            raise Superseded("a newer session of this agent took over")
        # Before any order: what follows goes through the same queue.
        outlet.welcome(entry.epoch, view.found.verdicts)
        self._interest.greet(session)
        self._on_change([hello.agent_id])
        vanished = len(view.found.vanished)
        _log.info("session_opened", agent=hello.agent_id, epoch=entry.epoch, held=len(hello.held), vanished=vanished)
        return session

    async def close(self, session: Session, *, goodbye: bool) -> None:
        """Ends a session because its stream ended; a newer one is not touched. What runs goes on.

        Args:
            session: the one whose stream ended.
            goodbye: the agent left on purpose.
        """
        self._registry.remove(session)
        await self._database.execute("close_session", agent_id=session.agent_id, epoch=session.epoch, goodbye=goodbye)
        self._on_change([session.agent_id])
        _log.info("session_closed", agent=session.agent_id, epoch=session.epoch)

    def suspects(self, session: Session, live: Iterable[Fence]) -> list[Fence]:
        """Attempts that an agent says are live and this session does not know.

        To be called when the beat arrives, before any later message is acted on: a later report may end an attempt
        that the beat rightly calls live.
        """
        return [fence for fence in live if fence not in session.known]

    async def beat(self, session: Session, suspects: list[Fence], leaving: bool) -> BeatAnswer | None:
        """Stores a beat; returns what to answer, or None when the session is over."""
        if not await self.beats.add((session, leaving)):
            return None
        session.last_beat = self._clock.monotonic()
        if not session.confirmed:
            await self._reports.end_many(session.agent_id, session.vanished)
            session.confirmed, session.vanished = True, ()
        if leaving != session.leaving:
            session.leaving = leaving
            self._on_change([session.agent_id])
        await self._heed(session)
        stops = [known.stop for known in session.known.values() if known.stop is not None]
        return BeatAnswer(stops=stops, unknown=await self._confirm_unknown(session, suspects))

    async def _heed(self, session: Session) -> None:
        """Acts on a notice. When that fails, the next beat says it again."""
        if session.notice is None:
            session.noticed = False
        elif not session.noticed:
            with suppress(Unavailable):
                await self._on_notice(session.agent_id, session.notice)
                session.noticed = True

    def _refuse_clone(self, hello: Hello) -> None:
        """Two programs with one identity would each have the other's attempts called dead.

        A supervisor that was replaced closes its link's stream before the next Hello comes, so an open session that
        was heard of lately and belongs to another supervisor is somebody else: a copied data folder, a cloned machine.
        """
        there = self._registry.get(hello.agent_id)
        if there is None or there.supervisor_id == hello.supervisor_id:
            return
        if self._clock.monotonic() - there.last_beat < self._terms.unreachable_seconds:
            raise cloned(hello.agent_id, there.epoch)

    def _end_older(self, agent_id: AgentId, epoch: int) -> None:
        old = self._registry.get(agent_id)
        if old is not None and old.epoch < epoch:
            self._registry.remove(old)
            old.outlet.end("a newer session of this agent took over")

    def _linger(self) -> float:
        """A lease counts from when its beat was sent, so an answer a little later costs nobody anything."""
        return _LINGER_SECONDS if len(self._registry.all()) >= _MANY_SESSIONS else 0.0

    async def _renew(self, beats: list[tuple[Session, bool]]) -> list[bool]:
        rows = await self._database.fetch(
            "renew_leases",
            agent_ids=[session.agent_id for session, _ in beats],
            epochs=[session.epoch for session, _ in beats],
            leavings=[leaving for _, leaving in beats],
            owings=[session.owing for session, _ in beats],
            now=None,
        )
        await failpoints.reach("server.beat.committed")
        renewed = {(row["agent_id"], row["epoch"]) for row in rows}
        return [(session.agent_id, session.epoch) in renewed for session, _ in beats]

    async def _confirm_unknown(self, session: Session, suspects: list[Fence]) -> list[Fence]:
        """Which of these fences are live nowhere: an order to kill is only given on the database's word."""
        if not suspects:
            return []
        rows = await self._database.fetch("find_live_fences", fences=suspects, agent_id=session.agent_id)
        live = {row["fence"] for row in rows}
        return [fence for fence in suspects if fence not in live]
