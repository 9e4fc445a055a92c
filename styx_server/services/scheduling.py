"""Gives waiting tasks to agents: plans on what is in memory, and has the plan carried out (`assigning.py`).

Everything in memory is a cache of the database, and only the leader has it. A task that turns out not to wait any more
is dropped; when an answer of the database was lost, memory is made anew from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from styx_server.clock import Clock
from styx_server.core.placement.backlog import Backlog, NamespaceBacklog, Waiting
from styx_server.core.placement.ledger import Ledger
from styx_server.core.placement.plan import Plan, plan_round
from styx_server.core.task import Fence, TaskId
from styx_server.services.assigning import BATCH, Assigning
from styx_server.services.elsewhere import Elsewhere
from styx_server.services.roster import Roster
from styx_server.services.shapes import Shapes
from styx_server.services.wants import Wants
from styx_server.store.database import Database, Row

_LEARN_GAP_SECONDS: Final = 2.0
"""Between two times at which memory is made anew: callers who leave in the midst of a write must not keep it busy."""
_REFUSED_SECONDS: Final = 0.5
"""After a plan of which nothing could be stored: another leads by now, or agents have just moved."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """What the leader knows of the world, apart from the queue."""

    ledger: Ledger
    roster: Roster
    elsewhere: Elsewhere


class Scheduling:
    """The leader's view of what waits and what is free; on other servers it knows nothing and does nothing.

    Attributes:
        wants: what it found no room for.
    """

    def __init__(
        self,
        database: Database,
        shapes: Shapes,
        views: Views,
        assigning: Assigning,
        clock: Clock,
        wake: Callable[[], None],
    ) -> None:
        self._database = database
        self._clock = clock
        self._shapes = shapes
        self._ledger = views.ledger
        self._roster = views.roster
        self._elsewhere = views.elsewhere
        self._assigning = assigning
        self._wake = wake
        self._backlog = Backlog()
        self._term = 0
        self._unsure = True
        self._learn_at = 0.0
        self.wants = Wants(self._backlog.count_ready, wake)

    def lead(self, term: int) -> None:
        """This server leads under this term: the next round learns what there is."""
        self._term = self.wants.term = term
        self._learn_at = 0.0
        self.doubt()

    def resign(self) -> None:
        """Another server leads, or none."""
        self._term = 0
        self._backlog.namespaces.clear()
        self.wants.forget()
        self._roster.forget()

    def doubt(self) -> None:
        """An answer of the database was lost, so it may hold what memory does not know: the next round looks."""
        self._unsure = True
        self._wake()

    def tasks_wait(self, tasks: Iterable[Waiting]) -> None:
        """Takes in tasks that are stored and wait."""
        if not self._term:
            return
        for task in tasks:
            self._backlog.namespace(task.namespace).add(task)
        self._wake()

    def task_gone(self, namespace: str, task_id: TaskId) -> None:
        """Forgets a task that no longer waits."""
        if not self._term:
            return
        self._backlog.namespace(namespace).discard(task_id)

    def agents_changed(self, agent_ids: Iterable[int] | None) -> None:
        """Sessions of agents began or ended, or their standing changed; None: of any."""
        if not self._term:
            return
        self._roster.changed(agent_ids)
        self._wake()

    def attempts_over(self, fences: Iterable[Fence]) -> None:
        """Gives back what attempts held."""
        if not self._term:
            return
        self._roster.attempts_over(fences)
        self._wake()

    def noted(self) -> None:
        """Another server changed something."""
        if self._term:
            self._elsewhere.noted()
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

        Raises:
            Exception: of any kind; `doubt` is to be called then, because memory may be half of the truth.
        """
        if not self._term:
            return None
        if self._unsure and self._clock.monotonic() >= self._learn_at:
            await self._learn()
        await self._catch_up()
        await self._roster.refresh()
        for backlog in list(self._backlog.namespaces.values()):
            if backlog.wants_refill():
                await self._refill(backlog)
        plan, stored = await self._place(now)
        await self._shapes.explain(self.wants.note(plan.blocked))
        if plan.placements and not stored:
            return _REFUSED_SECONDS
        if len(plan.placements) == BATCH or any(map(NamespaceBacklog.wants_refill, self._backlog.namespaces.values())):
            return 0.0
        next_time = self._backlog.next_time()
        wait = self._elsewhere.wait_seconds
        if self._unsure:
            wait = min(wait, max(0.0, self._learn_at - self._clock.monotonic()))
        return wait if next_time is None else max(0.0, min(wait, next_time - now))

    async def _learn(self) -> None:
        """Makes memory anew from the database."""
        self._unsure = False
        self._learn_at = self._clock.monotonic() + _LEARN_GAP_SECONDS
        try:
            # From here on changes are read, so what is read next may be older than a change but never newer.
            await self._elsewhere.begin()
            await self._database.execute("settle_lead", name="scheduler")
            self._assigning.drop_stock()
            await self._shapes.load()
            await self._roster.learn()
            self._backlog.forget()
            for row in await self._database.fetch("list_namespaces"):
                self._backlog.namespace(row["name"])
        except BaseException:
            self._unsure = True
            raise

    async def _catch_up(self) -> None:
        """Takes in what other servers changed.

        A task that does not wait any more is left in memory: what was read may be older than what is known here, and it
        falls out when it is placed.
        """
        async for rows in self._elsewhere.pages():
            self._roster.attempts_over(Fence(row["fence"]) for row in rows if row["kind"] == "ended")
            self._roster.suspect(row["agent_id"] for row in rows if row["kind"] == "assigned")
            for row in rows:
                if row["waits"]:
                    self.tasks_wait([await _waiting(row, self._shapes)])

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

    async def _place(self, now: float) -> tuple[Plan, int]:
        """Plans and carries out; returns the plan, and how much of it was stored."""
        await self._assigning.stock()
        self._backlog.promote(now)
        now_monotonic = self._clock.monotonic()
        plan = plan_round(self._backlog, self._ledger.fleet, self._ledger.usage, limit=BATCH, now=now_monotonic)
        if not plan.placements:
            return plan, 0
        flying = self._assigning.reserve(plan.placements)
        waiting = await self._assigning.carry_out(flying, self._term)
        self.tasks_wait(waiting)
        return plan, len(plan.placements) - len(waiting)


async def _waiting(row: Row, shapes: Shapes) -> Waiting:
    shape = await shapes.get(row["shape_id"])
    ready_at = row["not_before"].timestamp() if row["not_before"] else 0.0
    return Waiting(TaskId(row["id"]), row["namespace"], row["priority"], shape, ready_at)
