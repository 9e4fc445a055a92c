"""Carries out what operators want of agents: out of service, stopped at a deadline, removed.

Every server does it, for the agents whose sessions it holds: the wish is in the database, so no leader is needed, and
neither a restart nor a lost message loses it. One pass asks for the wishes and repeats what is not done yet.
"""

from __future__ import annotations

from typing import Final

import structlog

from styx_server.core.task import AgentId
from styx_server.services.removal import Removal
from styx_server.services.scheduling import Scheduling
from styx_server.services.session_registry import Session, SessionRegistry
from styx_server.store.database import Database
from styx_server.store.rows import stop_orders

_log = structlog.get_logger()

PERIOD_SECONDS: Final = 2.0
"""With a pass and a round trip on top, a removed agent's streams end within 5 s on every server."""


class Retirer:
    """Looks after the sessions of this server whose agents are to leave."""

    def __init__(self, database: Database, registry: SessionRegistry, scheduling: Scheduling, removal: Removal) -> None:
        self._database = database
        self._registry = registry
        self._scheduling = scheduling
        self._removal = removal

    async def once(self) -> float | None:
        """One pass."""
        before = {session.agent_id: (session, session.drained) for session in self._registry.all()}
        rows = await self._database.fetch("retiring_agents", ids=list(before)) if before else []
        wishes = {AgentId(row["id"]): row for row in rows}
        for agent_id, (session, drained) in before.items():
            # Another was told meanwhile: what was read here is older than that.
            if self._registry.get(agent_id) is session and session.drained == drained:
                self._set_drained(session, agent_id in wishes)
        due: list[AgentId] = []
        for agent_id, row in wishes.items():
            if row["removed"]:
                self._removal.dismiss(agent_id)
            elif row["due"]:
                due.append(agent_id)
        if due:
            await self._preempt(due)
        return None

    def _set_drained(self, session: Session, drained: bool) -> None:
        if session.drained != drained:
            session.drained = drained
            self._scheduling.set_accepting(session.agent_id, session.accepting)

    async def _preempt(self, due: list[AgentId]) -> None:
        marked = await self._database.fetch("preempt_live", agent_ids=due)
        if marked:
            _log.info("attempts_preempted", agents=due, count=len(marked))
        for agent_id, orders in stop_orders(await self._database.fetch("stops_of", agent_ids=due)).items():
            session = self._registry.get(agent_id)
            known = session.known if session is not None else {}
            # What was told once is repeated by beats; one that the session does not know yet is told in the next pass.
            untold = [order for order in orders if order.fence in known and known[order.fence].stop != order]
            if untold:
                self._registry.stop(agent_id, untold)
