"""Ends attempts whose agents have been silent for so long that they are dead on both sides.

One pass looks at all leases that carry live attempts. What it finds is ended only if the lease is still the one that
was observed, under a lock that a late beat has to wait for.
"""

from __future__ import annotations

import structlog

from styx_server.clock import Clock
from styx_server.core.errors import Unavailable
from styx_server.core.lease import USUAL_TERMS, LeaseTerms, LeaseWatch
from styx_server.core.states import AttemptState, OutcomeKind
from styx_server.core.task import AgentId, Fence, Outcome, TaskId
from styx_server.services.reports import Reports
from styx_server.services.session_registry import SessionRegistry
from styx_server.store.database import Database

_log = structlog.get_logger()

_OLD_ASSIGNMENT_WINDOWS = 3
"""Start windows: by then the agent has reported a start, or will not start it."""


class Reaper:
    """The observer; what it has seen dies with it."""

    def __init__(
        self,
        database: Database,
        registry: SessionRegistry,
        reports: Reports,
        clock: Clock,
        terms: LeaseTerms = USUAL_TERMS,
    ) -> None:
        self._database = database
        self._registry = registry
        self._reports = reports
        self._clock = clock
        self._terms = terms
        self._watch = LeaseWatch(terms)
        self._outage = False

    async def once(self) -> float | None:
        """One pass."""
        try:
            rows = await self._database.fetch("read_leases")
        except Unavailable:
            self._watch.forget()
            raise
        now = self._clock.monotonic()
        self._watch.observe({AgentId(row["agent_id"]): row["lease_seq"] for row in rows}, now)
        if self._is_outage(now):
            return None
        silent = self._watch.silent(now, self._terms.shortest_patience_seconds)
        if silent:
            await self._reap(silent)
        return None

    async def lost_orders(self) -> float | None:
        """One pass over old assignments: ends those that the agent's open session knows nothing of.

        An agent that beats is never silent, so an order that got lost on the way would wait for ever.
        """
        seconds = _OLD_ASSIGNMENT_WINDOWS * self._terms.start_window_seconds
        for row in await self._database.fetch("old_assignments", seconds=seconds):
            agent_id, fence = AgentId(row["agent_id"]), Fence(row["fence"])
            session = self._registry.get(agent_id)
            if session is not None and fence not in session.known:
                outcome = Outcome(kind=OutcomeKind.REJECTED, message="the assignment never reached the agent")
                _log.warning("order_lost", agent=agent_id, task=row["id"], fence=fence)
                await self._reports.end_many(agent_id, [(TaskId(row["id"]), fence, outcome)])
        return None

    async def _reap(self, silent: dict[AgentId, tuple[int, float]]) -> None:
        rows = await self._database.fetch("live_attempts_of", agent_ids=list(silent))
        for agent_id, (lease_seq, seconds) in silent.items():
            dead = []
            for row in rows:
                state = AttemptState(row["attempt_state"])
                limit = row["disconnect_ms"]
                patience = self._terms.patience_seconds(state, None if limit is None else limit / 1000)
                if row["agent_id"] == agent_id and patience is not None and seconds >= patience:
                    message = f"agent a{agent_id} has been silent for {seconds:.0f} s"
                    outcome = Outcome(kind=OutcomeKind.LOST, message=message)
                    dead.append((TaskId(row["id"]), Fence(row["fence"]), outcome))
            if dead:
                _log.warning("attempts_lost", agent=agent_id, count=len(dead), silent_seconds=round(seconds))
                await self._reports.end_many(agent_id, dead, lease_seq=lease_seq)

    def _is_outage(self, now: float) -> bool:
        outage = self._watch.is_outage(now)
        if outage and not self._outage:
            _log.error("mass_silence", action="nothing expires until agents are heard again")
        self._outage = outage
        return outage
