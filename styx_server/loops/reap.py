"""Ends attempts whose agents have been silent for so long that they are dead on both sides.

One pass looks at all leases that carry live attempts. What it finds is ended only if the lease is still the one that
was observed, under a lock that a late beat has to wait for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import structlog

from styx import failpoints
from styx_server.clock import Clock
from styx_server.core.errors import Unavailable
from styx_server.core.lease import START_WINDOW_SECONDS, LeaseWatch, margin_seconds, patience_seconds
from styx_server.core.states import AttemptState, OutcomeKind
from styx_server.core.task import AgentId, Fence, Outcome, TaskId
from styx_server.services.reports import Reports
from styx_server.store.database import Database

_log = structlog.get_logger()

PERIOD_SECONDS = 5.0


class Reaper:
    """The observer; what it has seen dies with it, and with its lead.

    Args:
        on_change: told of agents whose sessions it ended.
    """

    def __init__(
        self, database: Database, reports: Reports, clock: Clock, on_change: Callable[[Iterable[AgentId]], None]
    ) -> None:
        self._database = database
        self._reports = reports
        self._clock = clock
        self._on_change = on_change
        self._watch = LeaseWatch()
        self._outage = False
        self._failures = 0

    def begin(self) -> None:
        """This server reaps from now on: what it saw before counts for nothing."""
        self._watch.forget()

    async def once(self) -> float | None:
        """One pass."""
        try:
            rows = await self._database.fetch("read_leases")
        except Unavailable:
            self._watch.forget()
            raise
        if (failures := self._database.failures["renew_leases"]) != self._failures:
            # Beats that could not be stored are silence of ours, not of the agents.
            self._failures = failures
            self._watch.forget()
        now = self._clock.monotonic()
        self._watch.observe({AgentId(row["agent_id"]): row["lease_seq"] for row in rows}, now)
        if self._is_outage(now):
            return None
        shortest = START_WINDOW_SECONDS + margin_seconds(START_WINDOW_SECONDS)
        silent = self._watch.silent(now, shortest)
        if silent:
            await self._reap(silent)
        return None

    async def _reap(self, silent: dict[AgentId, tuple[int, float]]) -> None:
        rows = await self._database.fetch("live_attempts_of", agent_ids=list(silent))
        for agent_id, (lease_seq, seconds) in silent.items():
            dead = []
            for row in rows:
                state = AttemptState(row["attempt_state"])
                limit = row["disconnect_ms"]
                patience = patience_seconds(state, None if limit is None else limit / 1000)
                if row["agent_id"] == agent_id and patience is not None and seconds >= patience:
                    message = f"agent a{agent_id} has been silent for {seconds:.0f} s"
                    outcome = Outcome(kind=OutcomeKind.LOST, message=message)
                    dead.append((TaskId(row["id"]), Fence(row["fence"]), outcome))
            if dead:
                _log.warning("attempts_lost", agent=agent_id, count=len(dead), silent_seconds=round(seconds))
                await failpoints.reach("server.lost.decided", Unavailable)
                # An order that is still on its way to the agent must find no session that would take it.
                await self._reports.end_many(agent_id, dead, lease_seq=lease_seq, disowned=True)
                self._on_change([agent_id])
                await failpoints.reach("server.lost.committed")

    def _is_outage(self, now: float) -> bool:
        outage = self._watch.is_outage(now)
        if outage and not self._outage:
            _log.error("mass_silence", action="nothing expires until agents are heard again")
        self._outage = outage
        return outage
