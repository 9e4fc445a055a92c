"""Has as many machines as the work needs: looks at what waits and what there is, carries out what `core` wishes.

Only on the server that leads the scheduler: it knows what waits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog

from styx_server.clock import Clock
from styx_server.core.machines.instance import InstanceId, InstanceState
from styx_server.core.machines.scale import Demand, Market, ScalePlan, Standing, plan_machines
from styx_server.core.machines.terms import MachineTerms
from styx_server.core.states import Reason
from styx_server.core.task import AgentId, Shape
from styx_server.services.machines.ends import Ends
from styx_server.services.machines.intents import Intents
from styx_server.services.wants import Wants
from styx_server.store.database import Database, Row
from styx_server.store.machine_rows import offer_from_json, pool_spec_from_json

_log = structlog.get_logger()

PERIOD_SECONDS: Final = 1.0
_MOST_AT_ONCE: Final = 50
"""Machines that are wished for in one round; what is still lacking then is seen in the next."""
_LEAVE_DEADLINE: Final = timedelta(minutes=10)
"""What a machine runs that has lived for as long as it may is asked to stop after this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hands:
    """Who carries out wishes."""

    intents: Intents
    ends: Ends
    on_rent: Callable[[], None]


class Scaling:
    """The rounds.

    Args:
        market: what can be rented now; asked anew in each round.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        wants: Wants,
        market: Callable[[], Awaitable[Market]],
        hands: Hands,
        terms: MachineTerms,
    ) -> None:
        self._database = database
        self._clock = clock
        self._wants = wants
        self._market = market
        self._hands = hands
        self._terms = terms
        self._since: dict[Shape, float] = {}

    async def once(self) -> float | None:
        """One round.

        Raises:
            Unavailable: the database is away.
        """
        if not (term := self._wants.term):
            return None
        await self._database.execute("note_idle")
        rows = await self._database.fetch("live_instances")
        pools = {row["name"]: pool_spec_from_json(row["spec"]) for row in await self._database.fetch("read_pools")}
        for row in rows:
            await self._look_after(row)
        plan = plan_machines(pools, self._demands(), [_standing(row) for row in rows], await self._market())
        await self._carry_out(plan, term)
        self._wants.annotate(
            {
                shape: (Reason.NO_MATCH if shape in plan.hopeless else Reason.PROVISIONING, words)
                for shape, words in plan.words.items()
            }
        )
        return None

    def _demands(self) -> list[Demand]:
        now = self._clock.monotonic()
        waiting = self._wants.demand()
        self._since = {shape: self._since.get(shape, now) for shape, _, _ in waiting}
        return [
            Demand(shape=shape, count=count, possible=possible, waited_seconds=now - self._since[shape])
            for shape, count, possible in waiting
        ]

    async def _carry_out(self, plan: ScalePlan, term: int) -> None:
        rented = 0
        refused: dict[str, str] = {}
        for wish in plan.rents[:_MOST_AT_ONCE]:
            if wish.pool in refused:
                continue
            stored = await self._hands.intents.rent(wish, term)
            if isinstance(stored, str):
                refused[wish.pool] = stored
            else:
                rented += 1
        if rented:
            self._hands.on_rent()
        for shape in plan.words:
            if why := refused.get(shape.pool):
                plan.words[shape] = why
                plan.hopeless.add(shape)
        for leave in plan.leaves:
            # One that was idle may have got work this moment; that may end.
            deadline = _LEAVE_DEADLINE if leave.reason == "expired" else None
            await self._hands.ends.drain(leave.instance_id, leave.reason, leave.message, deadline)

    async def _look_after(self, row: Row) -> None:
        """Takes the next step of a machine that is on its way out, or never came."""
        ends, instance_id = self._hands.ends, InstanceId(row["id"])
        agent_id = None if row["agent_id"] is None else AgentId(row["agent_id"])
        state = InstanceState(row["state"])
        if state is InstanceState.LAUNCHED and row["launched_seconds"] > self._terms.join:
            await ends.give_back(instance_id, agent_id, "never_joined", "its agent did not join in time")
        elif state is InstanceState.DRAINING and (not (row["attempts"] or row["owing"]) or row["overdue"]):
            await ends.give_back(instance_id, agent_id, row["reason"], row["message"], force=row["overdue"])
        elif state is InstanceState.READY and row["revoked"]:
            await ends.give_back(instance_id, agent_id, "agent_removed", "its agent was removed", force=True)


def _standing(row: Row) -> Standing:
    return Standing(
        instance_id=InstanceId(row["id"]),
        pool=row["pool"],
        offer=offer_from_json(row["offer"]),
        state=InstanceState(row["state"]),
        joined_seconds=row["joined_seconds"],
        idle_seconds=row["idle_seconds"],
        expired=row["expired"],
    )
