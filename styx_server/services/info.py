"""What this server is, and how it does."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from styx_server.clock import Clock
from styx_server.core.states import TaskState
from styx_server.services.agents import Agents
from styx_server.store.database import Database

_COUNT_SECONDS: Final = 2.0
FEATURES: Final = (
    "tasks",
    "logs",
    "watch",
    "agents",
    "join_tokens",
    "drain_deadline",
    "remove_agent",
    "pools",
    "instances",
    "offers",
    "costs",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Information:
    """What this server is, and how it does."""

    version: str
    deployment_id: str
    replica_id: str
    now: datetime
    start_time: datetime
    task_counts: dict[str, int]
    agent_counts: dict[str, int]
    features: tuple[str, ...]


class ServerInformation:
    """Collects it; counting tasks is a scan, so a count serves everybody for two seconds."""

    def __init__(
        self, database: Database, clock: Clock, *, agents: Agents, version: str, deployment_id: UUID, replica_id: UUID
    ) -> None:
        self._database = database
        self._clock = clock
        self._agents = agents
        self._version = version
        self._deployment_id = deployment_id
        self._replica_id = replica_id
        self._start_time = clock.now()
        self._counts: dict[str, int] = {}
        self._counted_at = -_COUNT_SECONDS

    async def get(self) -> Information:
        """What this server is, and how it does."""
        now = self._clock.monotonic()
        if now - self._counted_at >= _COUNT_SECONDS:
            rows = await self._database.fetch("count_tasks")
            self._counts = {TaskState(row["state"]).name: row["count"] for row in rows}
            self._counted_at = now
        agents: Counter[str] = Counter()
        after = 0
        while page := await self._agents.page(after, 1000):
            agents.update(agent.state.name for agent in page)
            after = page[-1].agent_id
        return Information(
            version=self._version,
            deployment_id=str(self._deployment_id),
            replica_id=str(self._replica_id),
            now=self._clock.now(),
            start_time=self._start_time,
            task_counts=dict(self._counts),
            agent_counts=dict(agents),
            features=FEATURES,
        )
