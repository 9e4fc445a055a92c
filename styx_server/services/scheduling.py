"""Gives waiting tasks to agents: plans on what is in memory, and has the plan carried out (`assigning.py`).

Everything in memory is a cache of the database. A task that turns out not to wait any more is dropped; when an answer
of the database was lost, memory is made anew from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from uuid import UUID

from styx import failpoints
from styx_server.core.placement.backlog import Backlog, NamespaceBacklog, Waiting
from styx_server.core.placement.capacity import AgentSlots, Reservation
from styx_server.core.placement.ledger import Ledger
from styx_server.core.placement.plan import Plan, plan_round
from styx_server.core.task import AgentId, Fence, TaskId
from styx_server.services.assigning import BATCH, Assigning
from styx_server.services.shapes import Shapes
from styx_server.store.database import Database, Row
from styx_server.store.rows import capacity_from_json


class Scheduling:
    """The leader's view of what waits and what is free."""

    def __init__(
        self, database: Database, shapes: Shapes, ledger: Ledger, assigning: Assigning, wake: Callable[[], None]
    ) -> None:
        self._database = database
        self._shapes = shapes
        self._ledger = ledger
        self._assigning = assigning
        self._wake = wake
        self._backlog = Backlog()
        self._term = 0
        self._doubtful = False

    async def lead(self, replica_id: UUID) -> None:
        """Becomes the leader, and learns which namespaces there are; what they hold is read as it is needed."""
        row = await self._database.fetch_row("lead", name="scheduler", replica_id=replica_id)
        assert row is not None
        await failpoints.reach("server.lead.won")
        self._term = row["term"]
        self._assigning.drop_stock()
        await self._shapes.load()
        await self._learn_namespaces()
        await self._learn_agents()

    def doubt(self) -> None:
        """An answer of the database was lost, so it may hold what memory does not know: the next round looks."""
        self._doubtful = True
        self._wake()

    def tasks_wait(self, tasks: Iterable[Waiting]) -> None:
        """Takes in tasks that are stored and wait."""
        for task in tasks:
            self._backlog.namespace(task.namespace).add(task)
        self._wake()

    def task_gone(self, namespace: str, task_id: TaskId) -> None:
        """Forgets a task that no longer waits."""
        self._backlog.namespace(namespace).discard(task_id)

    def agent_here(self, agent: AgentSlots, held: dict[Fence, Reservation]) -> None:
        """An agent connected: what it has, and what its live attempts hold of it."""
        self._ledger.enter(agent, held)
        self._wake()

    def set_accepting(self, agent_id: AgentId, accepting: bool) -> None:
        """Says whether an agent may get new work."""
        self._ledger.fleet.set_accepting(agent_id, accepting)
        if accepting:
            self._wake()

    def attempts_over(self, fences: Iterable[Fence]) -> None:
        """Gives back what attempts held."""
        self._ledger.give_back(fences)
        self._wake()

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
        if self._doubtful:
            await self._look_again()
        for backlog in list(self._backlog.namespaces.values()):
            if backlog.wants_refill():
                await self._refill(backlog)
        plan = await self._place(now)
        await self._shapes.explain(plan.blocked)
        if len(plan.placements) == BATCH:
            return 0.0
        next_time = self._backlog.next_time()
        return None if next_time is None else max(0.0, next_time - now)

    async def _learn_namespaces(self) -> None:
        for row in await self._database.fetch("list_namespaces"):
            self._backlog.namespace(row["name"])

    async def _learn_agents(self) -> None:
        """Every agent that ever joined is a machine that could come back: what it fits is not out of reach."""
        after = 0
        while rows := await self._database.fetch("list_agents", after=after, count=1000, ids=None):
            for row in rows:
                agent = AgentSlots(
                    agent_id=AgentId(row["id"]),
                    pool=row["pool"],
                    labels=row["labels"],
                    total=capacity_from_json(row["capacity"]),
                    accepting=False,
                )
                self._ledger.enter(agent, {})
            after = rows[-1]["id"]

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

    async def _place(self, now: float) -> Plan:
        await self._assigning.stock()
        self._backlog.promote(now)
        plan = plan_round(self._backlog, self._ledger.fleet, self._ledger.usage, BATCH)
        if plan.placements:
            flying = self._assigning.reserve(plan.placements)
            try:
                waiting = await self._assigning.carry_out(flying, self._term)
            except BaseException:
                # One that was stored all the same no longer waits, and falls out at its next commit.
                self.tasks_wait(placement.task for placement in plan.placements)
                raise
            if waiting:
                self.tasks_wait(waiting)
        return plan

    async def _look_again(self) -> None:
        """Makes memory agree with the database after an answer of it was lost."""
        self._doubtful = False
        try:
            held = self._ledger.fences()
            rows = await self._database.fetch("find_live_fences", fences=held, agent_id=None)
            live = {Fence(row["fence"]) for row in rows}
            self._ledger.give_back(fence for fence in held if fence not in live)
            await self._learn_namespaces()
            await self._assigning.repeat_stops()
        except BaseException:
            self._doubtful = True
            raise
        self._backlog.forget()


async def _waiting(row: Row, shapes: Shapes) -> Waiting:
    shape = await shapes.get(row["shape_id"])
    ready_at = row["not_before"].timestamp() if row["not_before"] else 0.0
    return Waiting(TaskId(row["id"]), row["namespace"], row["priority"], shape, ready_at)
