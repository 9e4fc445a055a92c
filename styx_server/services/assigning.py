"""Carries out a plan: fences, the commit, and only then the orders to the agents.

What a placement took stands in the ledger under its fence before the commit, so that whatever happens meanwhile gives
it back exactly once. What is stored and cannot be sent from here is sent by the server that has the session, see
`delivery.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog

from styx import failpoints
from styx_server.core.errors import Unavailable
from styx_server.core.placement.backlog import Waiting
from styx_server.core.placement.ledger import Ledger
from styx_server.core.placement.plan import Placement
from styx_server.core.session import Assignment
from styx_server.core.task import AgentId, Fence, TaskId
from styx_server.services.session_registry import SessionRegistry
from styx_server.store.database import Database, Row

_log = structlog.get_logger()

BATCH = 500
"""Placements in one commit: large enough to share its cost, small enough to be on their way soon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outward:
    """Who is told of what becomes of a plan.

    Attributes:
        on_unsent: told of agents whose orders were stored and not sent, because their sessions are not here.
        on_change: told after each commit which tasks changed.
    """

    on_unsent: Callable[[Iterable[AgentId]], None]
    on_change: Callable[[Iterable[TaskId]], None]


class Assigning:
    """Gives tasks to agents, in the database and then through their sessions."""

    def __init__(self, database: Database, ledger: Ledger, registry: SessionRegistry, outward: Outward) -> None:
        self._database = database
        self._ledger = ledger
        self._registry = registry
        self._out = outward
        self._fences: deque[Fence] = deque()

    async def stock(self) -> None:
        """Makes sure that there are fences for a whole batch, so that a plan and its reservations are one step."""
        if len(self._fences) < BATCH:
            rows = await self._database.fetch("reserve_fences", count=2 * BATCH)
            self._fences.extend(Fence(row["fence"]) for row in rows)

    def drop_stock(self) -> None:
        """Forgets fences: another leader may have used larger ones since."""
        self._fences.clear()

    def reserve(self, placements: Iterable[Placement]) -> dict[Fence, Placement]:
        """Puts what a plan took under fences; to be called in the same breath as the plan is made."""
        flying = {self._fences.popleft(): placement for placement in placements}
        for fence, placement in flying.items():
            self._ledger.note(fence, placement.reservation)
        return flying

    async def carry_out(self, flying: dict[Fence, Placement], term: int) -> list[Waiting]:
        """Commits placements and sends what was committed.

        Returns:
            Tasks that got no agent and wait on.

        Raises:
            Unavailable: whether it is stored is not known; nothing was sent.
        """
        with self._registry.look() as over:
            rows = await self._commit(flying, term)
            await failpoints.reach("server.assign.committed")
            refused = self._send(flying, {TaskId(row["id"]): row for row in rows}, over)
        self._out.on_change(TaskId(row["id"]) for row in rows)
        return await self._still_waiting(refused)

    async def _commit(self, flying: dict[Fence, Placement], term: int) -> list[Row]:
        await failpoints.reach("server.assign.planned", Unavailable)
        placements = list(flying.values())
        agents = [placement.reservation.agent_id for placement in placements]
        fleet = self._ledger.fleet.agents
        return await self._database.fetch(
            "assign_tasks",
            now=None,
            ids=[placement.task.task_id for placement in placements],
            fences=list(flying),
            agent_ids=agents,
            epochs=[fleet[agent_id].epoch for agent_id in agents],
            gpus=[",".join(map(str, placement.reservation.gpu_indexes)) or None for placement in placements],
            alternatives=[placement.alternative for placement in placements],
            term=term,
        )

    def _send(self, flying: dict[Fence, Placement], rows: dict[TaskId, Row], over: set[Fence]) -> list[Waiting]:
        """Sends what was committed, in the order of the plan; returns what was not."""
        orders: dict[AgentId, list[Assignment]] = {}
        refused: list[Waiting] = []
        for fence, placement in flying.items():
            row = rows.get(placement.task.task_id)
            if row is None:
                self._ledger.give_back([fence])
                refused.append(placement.task)
            else:
                orders.setdefault(placement.reservation.agent_id, []).append(_order(fence, placement, row))
        fleet = self._ledger.fleet.agents
        sent = {
            agent_id
            for agent_id, assignments in orders.items()
            if self._registry.dispatch(agent_id, fleet[agent_id].epoch, assignments, over)
        }
        if unsent := orders.keys() - sent:
            self._out.on_unsent(unsent)
        return refused

    async def _still_waiting(self, refused: list[Waiting]) -> list[Waiting]:
        """Of tasks that could not be committed, those that were not cancelled meanwhile."""
        if not refused:
            return []
        _log.info("placements_refused", count=len(refused))
        try:
            rows = await self._database.fetch("find_waiting", ids=[task.task_id for task in refused])
        except Unavailable:
            return refused
        waiting = {row["id"] for row in rows}
        return [task for task in refused if task.task_id in waiting]


def _order(fence: Fence, placement: Placement, row: Row) -> Assignment:
    return Assignment(
        fence=fence,
        task_id=placement.task.task_id,
        attempt=row["attempt"],
        namespace=row["namespace"],
        body=row["body"],
        gpu_indexes=placement.reservation.gpu_indexes,
        alternative=placement.alternative,
    )
