"""Carries out what operators want of agents: out of service, stopped at a deadline, removed.

Every server does it, for the agents whose sessions it holds: the wish is in the database, so no leader is needed, and
neither a restart nor a lost message loses it. What is to stop is marked here and told by `services/delivery.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import structlog

from styx_server.core.task import AgentId
from styx_server.services.removal import Removal
from styx_server.services.session_registry import SessionRegistry
from styx_server.store.database import Database

_log = structlog.get_logger()

PERIOD_SECONDS: Final = 2.0
"""With a pass and a round trip on top, a removed agent's streams end within 5 s on every server."""


class Retirer:
    """Looks after the sessions of this server whose agents are to leave.

    Args:
        on_stops: told of agents of which attempts are to stop now.
    """

    def __init__(
        self,
        database: Database,
        registry: SessionRegistry,
        removal: Removal,
        on_stops: Callable[[Iterable[AgentId]], None],
    ) -> None:
        self._database = database
        self._registry = registry
        self._removal = removal
        self._on_stops = on_stops

    async def once(self) -> float | None:
        """One pass."""
        here = [session.agent_id for session in self._registry.all()]
        rows = await self._database.fetch("retiring_agents", ids=here) if here else []
        for row in rows:
            if row["removed"]:
                self._removal.dismiss(AgentId(row["id"]))
        if due := [AgentId(row["id"]) for row in rows if row["due"] and not row["removed"]]:
            marked = await self._database.fetch("preempt_live", agent_ids=due)
            if marked:
                _log.info("attempts_preempted", agents=due, count=len(marked))
                self._on_stops(due)
        return None
