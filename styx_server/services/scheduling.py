"""Gives waiting tasks to agents: plans on what is in memory, commits the plan, and only then sends it.

Everything in memory is a cache of the database. A task that turns out not to wait any more is dropped; a capacity that
turns out to be taken is given back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from uuid import UUID

import structlog

from styx_server.core.errors import Unavailable
from styx_server.core.placement.backlog import Backlog, NamespaceBacklog, Waiting
from styx_server.core.placement.capacity import AgentSlots, Reservation
from styx_server.core.placement.ledger import Ledger
from styx_server.core.placement.plan import Placement, plan_round
from styx_server.core.session import Assignment
from styx_server.core.task import AgentId, Fence, TaskId
from styx_server.services.session_registry import SessionRegistry
from styx_server.services.shapes import Shapes
from styx_server.store.database import Database, Row

_log = structlog.get_logger()

BATCH = 500
"""Placements in one commit: large enough to share its cost, small enough to be on their way soon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outward:
    """What scheduling asks of the rest of the server.

    Attributes:
        on_undelivered: told of attempts that were committed and could not be sent.
        on_change: told after each commit.
        wake: asks for another round.
    """

    on_undelivered: Callable[[AgentId, list[Assignment]], None]
    on_change: Callable[[], None]
    wake: Callable[[], None]


class Scheduling:
    """The leader's view of what waits and what is free."""

    def __init__(
        self, database: Database, shapes: Shapes, ledger: Ledger, registry: SessionRegistry, outward: Outward
    ) -> None:
        self._database = database
        self._shapes = shapes
        self._registry = registry
        self._out = outward
        self._backlog = Backlog()
        self._ledger = ledger
        self._term = 0

    async def lead(self, replica_id: UUID) -> None:
        """Becomes the leader, and learns which namespaces there are; what they hold is read as it is needed."""
        row = await self._database.fetch_row("lead", name="scheduler", replica_id=replica_id)
        assert row is not None
        self._term = row["term"]
        await self._shapes.load()
        for name in await self._database.fetch("list_namespaces"):
            self._backlog.namespace(name["name"])

    def tasks_wait(self, tasks: Iterable[Waiting]) -> None:
        """Takes in tasks that are stored and wait."""
        for task in tasks:
            self._backlog.namespace(task.namespace).add(task)
        self._out.wake()

    def task_gone(self, namespace: str, task_id: TaskId) -> None:
        """Forgets a task that no longer waits."""
        self._backlog.namespace(namespace).discard(task_id)

    def agent_here(self, agent: AgentSlots, held: dict[Fence, Reservation]) -> None:
        """An agent connected: what it has, and what its live attempts hold of it."""
        self._ledger.enter(agent, held)
        self._out.wake()

    def agent_left(self, agent_id: AgentId, *, for_good: bool) -> None:
        """An agent's session ended. One that only lost its connection is still counted as a machine that fits."""
        if for_good:
            self._ledger.fleet.remove(agent_id)
        else:
            self._ledger.fleet.set_accepting(agent_id, False)

    def set_accepting(self, agent_id: AgentId, accepting: bool) -> None:
        """Says whether an agent may get new work."""
        self._ledger.fleet.set_accepting(agent_id, accepting)
        if accepting:
            self._out.wake()

    def attempts_over(self, fences: Iterable[Fence]) -> None:
        """Gives back what attempts held."""
        self._ledger.give_back(fences)
        self._out.wake()

    @property
    def waiting(self) -> int:
        """How many waiting tasks are in memory."""
        return len(self._backlog)

    async def round(self, now: float) -> float | None:
        """One round: read more of the queue if need be, plan, commit, send.

        Args:
            now: wall-clock time as a timestamp in seconds, for tasks that wait for a time.

        Returns:
            Seconds until the next round is wanted; None: not before something happens.
        """
        for backlog in list(self._backlog.namespaces.values()):
            if backlog.wants_refill():
                await self._refill(backlog)
        self._backlog.promote(now)
        plan = plan_round(self._backlog, self._ledger.fleet, self._ledger.usage, BATCH)
        if plan.placements:
            await self._carry_out(plan.placements)
        await self._shapes.explain(plan.blocked)
        if len(plan.placements) == BATCH:
            return 0.0
        next_time = self._backlog.next_time()
        return None if next_time is None else max(0.0, next_time - now)

    async def _refill(self, backlog: NamespaceBacklog) -> None:
        horizon = backlog.horizon
        assert horizon is not None
        count = backlog.begin_refill()
        try:
            rows = await self._database.fetch(
                "read_queue",
                namespace=backlog.namespace,
                priority=min(32767, -horizon[0]),
                id=horizon[1],
                count=count,
            )
            tasks = [await _waiting(row, self._shapes) for row in rows]
        except BaseException:
            backlog.abort_refill()
            raise
        backlog.end_refill(tasks, exhausted=len(rows) < count)

    async def _carry_out(self, placements: list[Placement]) -> None:
        try:
            rows = await self._commit(placements)
        except BaseException:
            # Whether it is stored is not known. Offer the tasks again: one that is stored no longer waits, and falls
            # out at the next commit; the agent's next Hello or the reaper brings its attempt to an end.
            for placement in placements:
                self._ledger.undo(placement.reservation)
            self.tasks_wait(placement.task for placement in placements)
            raise
        self._out.on_change()
        orders, refused = self._note(placements, rows)
        for agent_id, assignments in orders.items():
            if not self._registry.dispatch(agent_id, assignments):
                self._out.on_undelivered(agent_id, assignments)
        await self._offer_again(refused)

    async def _commit(self, placements: list[Placement]) -> list[Row]:
        fences = await self._database.fetch("reserve_fences", count=len(placements))
        agents = [placement.reservation.agent_id for placement in placements]
        return await self._database.fetch(
            "assign_tasks",
            now=None,
            ids=[placement.task.task_id for placement in placements],
            fences=[row["fence"] for row in fences],
            agent_ids=agents,
            epochs=[self._registry.epoch_of(agent_id) for agent_id in agents],
            gpus=[",".join(map(str, placement.reservation.gpu_indexes)) or None for placement in placements],
            term=self._term,
        )

    def _note(
        self, placements: list[Placement], rows: list[Row]
    ) -> tuple[dict[AgentId, list[Assignment]], list[Placement]]:
        by_task = {row["id"]: row for row in rows}
        orders: dict[AgentId, list[Assignment]] = {}
        refused: list[Placement] = []
        # In the order of the plan: an agent starts first what came first.
        for placement in placements:
            row = by_task.get(placement.task.task_id)
            if row is None:
                refused.append(placement)
                continue
            fence = Fence(row["fence"])
            self._ledger.note(fence, placement.reservation)
            orders.setdefault(placement.reservation.agent_id, []).append(
                Assignment(
                    fence=fence,
                    task_id=placement.task.task_id,
                    attempt=row["attempt"],
                    namespace=row["namespace"],
                    body=row["body"],
                    gpu_indexes=placement.reservation.gpu_indexes,
                )
            )
        return orders, refused

    async def _offer_again(self, refused: list[Placement]) -> None:
        """Takes back what could not be committed; a task that was cancelled meanwhile no longer waits."""
        if not refused:
            return
        _log.info("placements_refused", count=len(refused))
        for placement in refused:
            self._ledger.undo(placement.reservation)
        ids = [placement.task.task_id for placement in refused]
        try:
            waiting = {row["id"] for row in await self._database.fetch("find_waiting", ids=ids)}
        except Unavailable:
            waiting = set(ids)
        self.tasks_wait(placement.task for placement in refused if placement.task.task_id in waiting)


async def _waiting(row: Row, shapes: Shapes) -> Waiting:
    shape = await shapes.get(row["shape_id"])
    ready_at = row["not_before"].timestamp() if row["not_before"] else 0.0
    return Waiting(TaskId(row["id"]), row["namespace"], row["priority"], shape, ready_at)
