"""What would be rented for tasks, and why; rents nothing. Decided as it is for real, by `core/machines/choose.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from styx_server.clock import Clock
from styx_server.core.errors import NotFound
from styx_server.core.machines.book import OfferBook
from styx_server.core.machines.choose import Blocked, Drop, Ranking, dollars, rank
from styx_server.core.machines.cover import Cover, Pick, Wanted, cover
from styx_server.core.machines.failover import Block, Blocks
from styx_server.core.machines.infra import Contradiction, alternatives_of
from styx_server.core.machines.needs import MachineNeeds
from styx_server.core.machines.offer import MICROS, Offer
from styx_server.core.machines.pool import PoolSpec
from styx_server.core.placement.capacity import AgentSlots
from styx_server.core.placement.machine import PoolSays, machine_kind
from styx_server.core.task import AgentId, Shape
from styx_server.services.budgets import budget_room
from styx_server.services.catalog import Catalog
from styx_server.services.machines.refusals import Refusals
from styx_server.services.pools import Pools, PoolView
from styx_server.store.database import Database
from styx_server.store.rows import capacity_from_json

_AGENTS_SHOWN: Final = 20
_AGENTS_SEEN: Final = 1000
_ALTERNATIVES_SHOWN: Final = 10
_REFUSALS_SHOWN: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What would be rented.

    Attributes:
        picks: machines, the dearest first.
        agents: some that are there already and could run it.
        alternatives: the next best offers.
        drops: what was passed over, by reason, most first.
        refusals: what is blocked now, latest first.
        message: one sentence for people.
    """

    picks: tuple[Pick, ...] = ()
    price_micros: int = 0
    agents: tuple[AgentId, ...] = ()
    alternatives: tuple[Offer, ...] = ()
    drops: tuple[Drop, ...] = ()
    refusals: tuple[Block, ...] = ()
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """What is looked for."""

    needs: tuple[MachineNeeds, ...]
    ordered: bool
    tasks: int
    pool: PoolView

    @property
    def machines(self) -> int:
        """How many more the pool may have."""
        return max(0, self.pool.pool.spec.max_machines - self.pool.instances)


class Planning:
    """Plans without renting."""

    def __init__(self, database: Database, catalog: Catalog, pools: Pools, clock: Clock) -> None:
        self._database = database
        self._catalog = catalog
        self._pools = pools
        self._clock = clock
        self._refusals = Refusals(database, clock)

    async def plan(self, shape: Shape, tasks: int) -> Planned:
        """What would be rented for so many tasks of a shape, if nothing else waited."""
        try:
            pool = await self._pools.get(shape.pool)
        except NotFound:
            text = f"nothing is rented for pool {shape.pool}: there is none; `styx pool create {shape.pool}` makes it"
            return Planned(message=text)
        agents = await self._agents_for(shape, pool.pool.spec)
        try:
            needs = alternatives_of(shape, pool.pool.spec)
        except Contradiction as error:
            return Planned(agents=agents, message=f"nothing would be rented: {error}")
        question = _Question(needs=needs, ordered=shape.ordered, tasks=tasks, pool=pool)
        await self._refusals.read()
        blocks = self._refusals.blocks
        now = self._clock.now()
        # Tens of thousands of offers take a while, and others are not to wait for it.
        found = await asyncio.to_thread(
            _answer, question, await self._catalog.book(), lambda offer: blocks.why(offer, now)
        )
        message = found.message + await self._obstacle(found, shape.pool)
        refusals = _refusals(blocks, {drop.example.place.provider for drop in found.drops})
        current = tuple(block for block in refusals if block.until > now)
        return replace(found, agents=agents, refusals=current, message=message)

    async def _obstacle(self, found: Planned, pool: str) -> str:
        """Why nothing is rented all the same, as the end of a sentence."""
        row = await self._database.fetch_row("renting_frozen")
        if row is not None and row["frozen"]:
            return "; but renting is frozen, see `styx unfreeze`"
        room = await budget_room(self._database, pool)
        if room is None or room >= found.price_micros:
            return ""
        return f"; but a budget leaves {max(0, room) / MICROS:,.4f} $ for the next hour, see `styx budget list`"

    async def _agents_for(self, shape: Shape, spec: PoolSpec) -> tuple[AgentId, ...]:
        rows = await self._database.fetch("list_agents", after=0, count=_AGENTS_SEEN, ids=None)
        says = PoolSays(spot=spec.spot, types=bool(spec.machine_types))
        found: list[AgentId] = []
        for row in rows:
            slots = AgentSlots(
                agent_id=AgentId(row["id"]),
                pool=row["pool"],
                labels=row["labels"],
                total=capacity_from_json(row["capacity"]),
                kind=machine_kind(row["token_labels"], row["facts"], says),
            )
            usable = row["connected"] and not row["draining"]
            if usable and any(not slots.lacks(choice) for choice in shape.choices):
                found.append(slots.agent_id)
        return tuple(found[:_AGENTS_SHOWN])


def _answer(question: _Question, book: OfferBook, blocked: Blocked) -> Planned:
    ranking = rank(question.needs, book, blocked, ordered=question.ordered)
    wanted = Wanted(
        needs=question.needs, ordered=question.ordered, tasks=question.tasks, most_machines=question.machines
    )
    best = cover(wanted, book, blocked)
    taken = {pick.choice.offer for pick in best.picks}
    others = [choice.offer for choice in ranking.choices if choice.offer not in taken]
    return Planned(
        picks=best.picks,
        price_micros=best.price_micros,
        alternatives=tuple(others[:_ALTERNATIVES_SHOWN]),
        drops=_all_drops(ranking),
        message=_message(question, ranking, best),
    )


def _message(question: _Question, ranking: Ranking, best: Cover) -> str:
    pool = question.pool.pool
    if not ranking.choices:
        return ranking.sentence()
    if not question.machines:
        return (
            f"nothing would be rented: pool {pool.name} has {question.pool.instances} of at most "
            f"{pool.spec.max_machines} machines"
        )
    limit = pool.spec.max_price_micros
    if limit is not None and question.pool.price_micros + best.price_micros > limit:
        return (
            f"too dear for pool {pool.name}: {dollars(best.price_micros)} more, it has {dollars(limit)} and pays "
            f"{dollars(question.pool.price_micros)} already; fewer machines would be rented"
        )
    machines = "1 machine" if best.machines == 1 else f"{best.machines} machines"
    words = f"would rent {machines} for {dollars(best.price_micros)}"
    if best.covered < question.tasks:
        return f"{words}, for {best.covered} of {question.tasks} tasks at once; pool {pool.name} may have no more"
    return words


def _all_drops(ranking: Ranking) -> tuple[Drop, ...]:
    """Those of all alternatives, the same words counted together by their largest."""
    found: dict[str, Drop] = {}
    for drops in ranking.drops:
        for drop in drops:
            known = found.get(drop.words)
            if known is None or known.count < drop.count:
                found[drop.words] = drop
    return tuple(sorted(found.values(), key=lambda drop: -drop.count))


def _refusals(blocks: Blocks, providers: set[str]) -> Sequence[Block]:
    about = [block for block in blocks if block.key.provider in providers]
    return sorted(about, key=lambda block: block.time, reverse=True)[:_REFUSALS_SHOWN]
