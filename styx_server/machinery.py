"""Builds and wires what rents machines, as `app.py` does it for the rest. Decides nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

from styx_server.clock import Clock
from styx_server.core.machines.scale import Market
from styx_server.core.machines.terms import MachineTerms
from styx_server.core.task import AgentId
from styx_server.providers.ports import Provider
from styx_server.services.budgets import WATCH_SECONDS, Budgets
from styx_server.services.catalog import Catalog
from styx_server.services.giving_back import EndsMachines, NobodyEnds
from styx_server.services.machines.ends import Ends
from styx_server.services.machines.eviction import Eviction
from styx_server.services.machines.intents import Intents
from styx_server.services.machines.refusals import Refusals
from styx_server.services.machines.renting import PERIOD_SECONDS as RENTING_SECONDS
from styx_server.services.machines.renting import Memory, Renting
from styx_server.services.machines.scaling import PERIOD_SECONDS as SCALING_SECONDS
from styx_server.services.machines.scaling import Hands, Scaling
from styx_server.services.machines.shopping import PERIOD_SECONDS as SHOPPING_SECONDS
from styx_server.services.machines.shopping import Shopping
from styx_server.services.machines.sweeping import PERIOD_SECONDS as SWEEPING_SECONDS
from styx_server.services.machines.sweeping import Sweeping
from styx_server.services.removal import Removal
from styx_server.services.reports import Reports
from styx_server.services.wants import Wants
from styx_server.store.database import Database
from styx_server.supervise import Wake


@dataclass(frozen=True, slots=True, kw_only=True)
class Around:
    """The parts of the server that machines have to do with."""

    database: Database
    clock: Clock
    wants: Wants
    removal: Removal
    reports: Reports
    on_agents: Callable[[Iterable[AgentId]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What is outside: who rents machines out, for how much, and what they refused."""

    deployment_id: UUID
    providers: Mapping[str, Provider]
    catalog: Catalog
    market: Callable[[], Awaitable[Market]]
    refresh: Callable[[], Awaitable[float | None]]
    memory: Memory
    terms: MachineTerms


@dataclass(frozen=True, slots=True, kw_only=True)
class Rental:
    """What a server is told about renting. No providers: it rents nothing.

    Attributes:
        regions: for each provider, where machines may be rented; none: wherever it has offers.
        machine_types: for some providers, which types may be rented, with `*` for anything; none: all.
    """

    providers: Mapping[str, Provider] = field(default_factory=dict)
    regions: Mapping[str, Collection[str]] = field(default_factory=dict)
    machine_types: Mapping[str, Collection[str]] = field(default_factory=dict)
    terms: MachineTerms = field(default_factory=MachineTerms)


NOTHING_RENTED: Final = Rental()

ABANDONED_SECONDS: Final = 60.0

Repeat = Callable[[str, Callable[[], Awaitable[float | None]], float, Wake], Coroutine[Any, Any, None]]
"""Makes a loop: name, one pass, period in seconds, what makes it go round at once."""


class Machinery:
    """Everything that rents, looks for and ends machines.

    Attributes:
        ender: who ends machines when a person asks for it.
        providers: who rents machines out, by name.
        catalog: what they have, and for how much.
    """

    def __init__(self, around: Around, world: World) -> None:
        database, terms = around.database, world.terms
        self.providers = world.providers
        self.catalog = world.catalog
        self._refresh = world.refresh
        self._budgets = Budgets(database)
        self.wake_renting = Wake()
        self.wake_scaling = Wake()
        self.wake_sweeping = Wake()
        self.ends = Ends(database, around.removal, around.reports, around.on_agents)
        self.eviction = Eviction(database, world.memory, around.on_agents)
        self.ender: EndsMachines = self.ends if world.providers else NobodyEnds()
        self.intents = Intents(database, around.clock, world.deployment_id, terms)
        self.renting = Renting(database, world.providers, world.memory, around.wants, self.wake_scaling, terms)
        self.sweeping = Sweeping(database, world.providers, self.ends, world.memory, str(world.deployment_id), terms)
        hands = Hands(intents=self.intents, ends=self.ends, memory=world.memory, on_rent=self.wake_renting)
        self.scaling = Scaling(database, around.clock, around.wants, world.market, hands, terms)

    def work(self, repeat: Repeat) -> list[Coroutine[Any, Any, None]]:
        """All loops. `repeat` sees to it that only the leader goes round."""
        if not self.providers:
            # What was rented when there were some is not forgotten in silence.
            return [repeat("sweep", self.sweeping.once, ABANDONED_SECONDS, self.wake_sweeping)]
        return [
            self.renting.run(),
            repeat("rent", self.renting.once, RENTING_SECONDS, self.wake_renting),
            repeat("sweep", self.sweeping.once, SWEEPING_SECONDS, self.wake_sweeping),
            repeat("scale", self.scaling.once, SCALING_SECONDS, self.wake_scaling),
            repeat("watch_budgets", self._budgets.watch, WATCH_SECONDS, Wake()),
            repeat("shop", self._refresh, SHOPPING_SECONDS, Wake()),
        ]


def build_machinery(around: Around, deployment_id: UUID, rental: Rental) -> Machinery:
    """What rents from these providers, at their own prices."""
    refusals = Refusals(around.database, around.clock)
    regions = {name: rental.regions.get(name, ()) for name in rental.providers}
    catalog = Catalog(around.database, around.clock, regions=regions, machine_types=rental.machine_types)
    shopping = Shopping(rental.providers, catalog, refusals, around.clock)
    world = World(
        deployment_id=deployment_id,
        providers=rental.providers,
        catalog=catalog,
        market=shopping.market,
        refresh=shopping.refresh,
        memory=refusals,
        terms=rental.terms,
    )
    return Machinery(around, world)
