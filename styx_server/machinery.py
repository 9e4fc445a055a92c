"""Builds and wires what rents machines, as `app.py` does it for the rest. Decides nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from uuid import UUID

from styx_server.clock import Clock
from styx_server.core.machines.scale import Market
from styx_server.core.machines.terms import MachineTerms
from styx_server.core.task import AgentId
from styx_server.providers.ports import Provider
from styx_server.services.machines.ends import Ends
from styx_server.services.machines.intents import Intents, Reach
from styx_server.services.machines.renting import Memory, Renting
from styx_server.services.machines.scaling import Hands, Scaling
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
    """What is outside: who rents machines out, and how those find their way back."""

    deployment_id: UUID
    providers: Mapping[str, Provider]
    market: Callable[[], Awaitable[Market]]
    memory: Memory
    reach: Reach
    terms: MachineTerms


class Machinery:
    """Everything that rents, looks for and ends machines."""

    def __init__(self, around: Around, world: World) -> None:
        database, terms = around.database, world.terms
        self.wake_renting = Wake()
        self.wake_scaling = Wake()
        self.ends = Ends(database, around.removal, around.reports, around.on_agents)
        self.intents = Intents(database, around.clock, world.deployment_id, world.reach, terms)
        self.renting = Renting(database, world.providers, world.memory, self.wake_scaling, terms)
        self.sweeping = Sweeping(database, world.providers, self.ends, str(world.deployment_id), terms)
        hands = Hands(intents=self.intents, ends=self.ends, on_rent=self.wake_renting)
        self.scaling = Scaling(database, around.clock, around.wants, world.market, hands, terms)
