"""Brings orders from the database to the agents whose sessions are open here.

The quick way is that whoever commits an order sends it, when the session is on the same server. This is the sure way:
what is stored and not yet sent is sent, whoever stored it and whatever got lost. It also ends sessions that are over
without knowing it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final
from uuid import UUID

import structlog

from styx_server.clock import Clock
from styx_server.core.session import Assignment
from styx_server.core.states import AttemptState, Desired, OutcomeKind
from styx_server.core.task import AgentId, Fence, Outcome, TaskId
from styx_server.services.reports import Reports
from styx_server.services.session_registry import SessionRegistry
from styx_server.store.database import Database, Row
from styx_server.store.rows import stop_orders
from styx_server.supervise import Wake

_log = structlog.get_logger()

PERIOD_SECONDS: Final = 2.0


class Delivery:
    """One server's deliveries."""

    def __init__(
        self, database: Database, registry: SessionRegistry, reports: Reports, clock: Clock, replica_id: UUID
    ) -> None:
        self._database = database
        self._registry = registry
        self._reports = reports
        self._clock = clock
        self._replica_id = replica_id
        self._wanted: set[AgentId] = set()
        self._all_at = 0.0
        self.wake = Wake()

    def look_at(self, agent_ids: Iterable[int] | None) -> None:
        """These agents may have something waiting; None: all of them."""
        if agent_ids is None:
            self._all_at = 0.0
        else:
            self._wanted.update(map(AgentId, agent_ids))
        self.wake()

    async def once(self) -> float | None:
        """One pass over the sessions that were named, and over all of them every two seconds."""
        now = self._clock.monotonic()
        if now >= self._all_at:
            self._wanted, self._all_at = {each.agent_id for each in self._registry.all()}, now + PERIOD_SECONDS * 0.9
        wanted, self._wanted = {each for each in self._wanted if self._registry.get(each)}, set()
        if wanted:
            try:
                await self._end_replaced(sorted(wanted))
                await self._deliver(sorted(wanted))
            except BaseException:
                self._wanted |= wanted
                raise
        return None

    async def _end_replaced(self, agent_ids: list[AgentId]) -> None:
        sessions = [session for agent_id in agent_ids if (session := self._registry.get(agent_id))]
        replaced = await self._database.fetch(
            "find_replaced",
            agent_ids=[session.agent_id for session in sessions],
            epochs=[session.epoch for session in sessions],
        )
        ended = {(row["agent_id"], row["epoch"]) for row in replaced}
        for session in sessions:
            # One that was removed is dismissed in its own way, see `removal.py`.
            if (session.agent_id, session.epoch) in ended:
                session.outlet.end("a newer session of this agent took over, or this one was given up")

    async def _deliver(self, agent_ids: list[AgentId]) -> None:
        with self._registry.look() as over:
            rows = await self._database.fetch("read_orders", agent_ids=agent_ids, replica_id=self._replica_id)
            stops = [row for row in rows if _is_to_stop(row)]
            starts = [row for row in rows if not _is_to_stop(row) and self._is_unsent(row, over)]
            if starts:
                await self._send(starts, over)
            self._send_stops(stops)
            void = [row for row in stops if self._is_unsent(row, over) and self._is_confirmed(row["agent_id"])]
            # Whoever stored one of these and has no answer yet must not send it when that comes.
            self._registry.withdraw(Fence(row["fence"]) for row in void)
        await self._end_unsent(void)

    def _is_unsent(self, row: Row, over: Collection[Fence]) -> bool:
        session = self._registry.get(row["agent_id"])
        return (
            row["attempt_state"] == AttemptState.ASSIGNED
            and session is not None
            and session.epoch == row["epoch"]
            and row["fence"] not in session.known
            and row["fence"] not in over
        )

    def _is_confirmed(self, agent_id: AgentId) -> bool:
        session = self._registry.get(agent_id)
        return session is not None and session.confirmed

    async def _send(self, rows: list[Row], over: set[Fence]) -> None:
        found = await self._database.fetch("read_assignments", ids=[row["id"] for row in rows])
        bodies = {(row["id"], row["fence"]): row for row in found}
        for row in rows:
            item = bodies.get((row["id"], row["fence"]))
            if item is None:
                continue
            order = Assignment(
                fence=Fence(row["fence"]),
                task_id=TaskId(row["id"]),
                attempt=row["attempt"],
                namespace=item["namespace"],
                body=item["body"],
                gpu_indexes=tuple(item["gpu_indexes"] or ()),
                alternative=item["alternative"],
            )
            self._registry.dispatch(AgentId(row["agent_id"]), row["epoch"], [order], over)

    def _send_stops(self, rows: list[Row]) -> None:
        for agent_id, orders in stop_orders(rows).items():
            session = self._registry.get(agent_id)
            if session is None:
                continue
            fresh = [order for order in orders if (known := session.known.get(order.fence)) and known.stop != order]
            if fresh:
                self._registry.stop(agent_id, fresh)

    async def _end_unsent(self, rows: list[Row]) -> None:
        """Ends attempts that are to stop and were never sent: not in this session, and Hello did not name them."""
        for row in rows:
            kind = OutcomeKind.REJECTED if row["desired"] == Desired.STOP else OutcomeKind.PREEMPTED
            outcome = Outcome(kind=kind, message="it was to stop before it was sent")
            _log.info("order_withdrawn", agent=row["agent_id"], task=row["id"], fence=row["fence"])
            end = (TaskId(row["id"]), Fence(row["fence"]), outcome)
            # Void when the agent was heard of meanwhile: the order may have been taken back and it sent after all.
            await self._reports.end_many(row["agent_id"], [end], lease_seq=row["lease_seq"])


def _is_to_stop(row: Row) -> bool:
    return row["desired"] == Desired.STOP or row["stop_cause"] is not None
