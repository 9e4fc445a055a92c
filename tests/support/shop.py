"""What rents machines around a server without ports: a shop that opens, dies and opens again, and a cloud in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from styx_server.core.machines.instance import CloudMachine, InstanceId, InstanceState
from styx_server.core.machines.offer import Offer, Place
from styx_server.core.machines.pool import PoolSpec
from styx_server.core.machines.refusal import RefusalKind
from styx_server.core.machines.scale import Choice, Rent, Room
from styx_server.core.machines.terms import MachineTerms
from styx_server.core.placement.capacity import Capacity
from styx_server.core.task import AgentId, Shape
from styx_server.ids import new_secret
from styx_server.machinery import Around, Machinery, World
from styx_server.providers.ports import ProviderError
from styx_server.services.access import digest
from styx_server.services.catalog import Catalog
from styx_server.services.machines.intents import Reach
from tests.support.cloud import Cloud, an_offer
from tests.support.server import FakeAgent, Server
from tests.support.until import soon, soon_true

QUICK = MachineTerms.scaled(0.001)
S = InstanceState


@dataclass
class Bazaar:
    """A market with one offer, and a memory that tells."""

    offer: Offer = field(default_factory=an_offer)
    refused_kinds: list[RefusalKind] = field(default_factory=list)
    absences: int = 0

    async def refused(self, offer: Offer, error: ProviderError) -> None:
        assert offer == self.offer
        self.refused_kinds.append(error.kind)

    async def granted(self, offer: Offer) -> None:
        assert offer == self.offer

    async def preempted(self, place: Place) -> None:
        assert place == self.offer.place

    async def absent(self, place: Place) -> None:
        assert place == self.offer.place
        self.absences += 1

    def cover(self, shape: Shape, pool: PoolSpec, count: int, room: Room) -> Choice:
        del pool
        each = max(1, self.offer.size.cpus_milli // max(1, shape.resources.cpus_milli))
        machines = min(room.machines, -(-count // each))
        return Choice(offers=[self.offer] * machines, words=f"renting {machines}")

    def suits(self, offer: Offer, shape: Shape, pool: PoolSpec) -> bool:
        del shape, pool
        return offer == self.offer

    def any_of(self, pool: PoolSpec) -> Choice:
        del pool
        return Choice(offers=[self.offer], words="")

    def tried(self, shape: Shape, pool: PoolSpec) -> str:
        del shape, pool
        return ""


@dataclass
class Shop:
    """What rents, the cloud it rents from, and the server around it."""

    server: Server
    cloud: Cloud = field(default_factory=Cloud)
    bazaar: Bazaar = field(default_factory=Bazaar)
    terms: MachineTerms = QUICK
    machinery: Machinery = field(init=False)
    worker: asyncio.Task[None] | None = None

    def open(self) -> None:
        """A server process begins; one before it may have died anywhere."""
        app = self.server.app
        around = Around(
            database=app.database,
            clock=app.clock,
            wants=app.scheduling.wants,
            removal=app.removal,
            reports=app.reports,
            on_agents=app.news.agents_changed,
        )

        async def market() -> Bazaar:
            return self.bazaar

        async def refresh() -> float | None:
            return None

        world = World(
            deployment_id=app.identity.deployment_id,
            providers={"cloud": self.cloud},
            catalog=Catalog(app.database, app.clock, regions={}),
            market=market,
            refresh=refresh,
            memory=self.bazaar,
            terms=self.terms,
        )
        self.machinery = Machinery(around, world)
        self.machinery.intents.reach = Reach(server_urls=("http://127.0.0.1:1",))
        self.worker = asyncio.get_running_loop().create_task(self.machinery.renting.run())

    async def die(self) -> None:
        """The server process is killed: whatever it did stops where it was."""
        assert self.worker is not None
        self.worker.cancel()
        await asyncio.gather(self.worker, return_exceptions=True)

    async def rent(self) -> InstanceId:
        """Stores one machine to be rented."""
        found = await self.wish()
        assert not isinstance(found, str), found
        return found

    async def wish(self) -> InstanceId | str:
        """The same, unless the pool is full."""
        return await self.machinery.intents.rent(
            Rent("default", self.bazaar.offer), self.server.app.scheduling.wants.term
        )

    async def turn(self, *, scales: bool = False) -> None:
        """Every loop goes round once, and calls end."""
        if scales:
            await self.machinery.scaling.once()
        await self.machinery.renting.once()
        await self.calm()
        await self.machinery.sweeping.once()

    async def calm(self) -> None:
        """No call is under way."""
        await soon(lambda: not self.machinery.renting._flying, "calls have ended")

    async def row(self, instance_id: InstanceId) -> Any:
        (row,) = await self.server.rows("select * from instances where id = $1", instance_id)
        return row

    async def becomes(self, instance_id: InstanceId, state: InstanceState, *, scales: bool = False) -> Any:
        """Goes round until an instance is in a state."""

        async def is_there() -> bool:
            await self.turn(scales=scales)
            return bool((await self.row(instance_id))["state"] == state)

        await soon_true(is_there, f"i{instance_id} is {state.name}")
        return await self.row(instance_id)

    async def moves_in(self, machine: CloudMachine) -> FakeAgent:
        """The agent of a machine comes."""
        boot = self.cloud.orders[machine.key].boot
        joined = await self.server.app.agents.join(boot.join_token, boot.agent_name, digest(new_secret()), "0.1.0")
        size = self.cloud.orders[machine.key].offer.size
        capacity = Capacity(cpus_milli=size.cpus_milli, memory_bytes=size.memory_bytes)
        agent = FakeAgent(self.server, AgentId(joined), capacity)
        await agent.connect()
        return agent

    async def ready(self) -> tuple[InstanceId, FakeAgent]:
        """A machine whose agent works."""
        instance_id = await self.rent()
        await self.becomes(instance_id, S.LAUNCHED)
        (machine,) = self.cloud.running
        return instance_id, await self.moves_in(machine)

    async def empty(self) -> None:
        """Gives everything back, and goes round until nothing is left."""
        self.cloud.away, self.cloud.lost, self.cloud.refusals = False, 0, []

        async def is_empty() -> bool:
            for row in await self.server.rows("select id, agent_id from instances where state < 6"):
                await self.machinery.ends.give_back(row["id"], row["agent_id"], "test", "", force=True)
            await self.turn()
            return not self.cloud.running and not await self.server.rows("select from instances where state < 7")

        await soon_true(is_empty, "nothing is rented")


@asynccontextmanager
async def shop_of(server: Server, **changes: Any) -> AsyncIterator[Shop]:
    shop = Shop(server, **changes)
    shop.open()
    await soon_true(lambda: _leads(server), "a leader")
    try:
        yield shop
    finally:
        await shop.die()


async def _leads(server: Server) -> bool:
    return bool(server.app.scheduling.wants.term)
