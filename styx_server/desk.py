"""Builds what people can ask about machines, as `app.py` does it for the rest. Decides nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from styx_server.clock import Clock
from styx_server.providers.ports import Provider
from styx_server.services.asking import Asking
from styx_server.services.budgets import Budgets
from styx_server.services.catalog import Catalog
from styx_server.services.costs import Costs
from styx_server.services.giving_back import EndsMachines, GivingBack
from styx_server.services.instance_views import InstanceViews
from styx_server.services.planning import Planning
from styx_server.services.pools import Pools
from styx_server.services.shapes import Shapes
from styx_server.store.database import Database
from styx_server.transport.machine_use_cases import MachineUseCases


@dataclass(frozen=True, slots=True, kw_only=True)
class Behind:
    """The parts of the server that stand behind the desk.

    Attributes:
        on_pools: told when a pool was made, changed or deleted.
    """

    database: Database
    clock: Clock
    shapes: Shapes
    ends: EndsMachines
    providers: Mapping[str, Provider]
    catalog: Catalog
    on_pools: Callable[[], None]


def build_desk(behind: Behind) -> MachineUseCases:
    """Everything that people can ask about machines."""
    instances = InstanceViews(behind.database, behind.clock)
    pools = Pools(behind.database, behind.on_pools)
    return MachineUseCases(
        pools=pools,
        instances=instances,
        giving_back=GivingBack(behind.database, instances, behind.ends),
        catalog=behind.catalog,
        asking=Asking(behind.providers, behind.catalog),
        planning=Planning(behind.database, behind.catalog, pools, behind.clock),
        costs=Costs(behind.database, behind.shapes),
        budgets=Budgets(behind.database),
    )
