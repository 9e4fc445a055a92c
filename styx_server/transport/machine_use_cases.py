"""What the public service can ask for about machines."""

from __future__ import annotations

from dataclasses import dataclass

from styx_server.services.asking import Asking
from styx_server.services.budgets import Budgets
from styx_server.services.catalog import Catalog
from styx_server.services.costs import Costs
from styx_server.services.giving_back import GivingBack
from styx_server.services.instance_views import InstanceViews
from styx_server.services.planning import Planning
from styx_server.services.pools import Pools


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineUseCases:
    """Everything about pools, rented machines, offers and costs."""

    pools: Pools
    instances: InstanceViews
    giving_back: GivingBack
    catalog: Catalog
    asking: Asking
    planning: Planning
    costs: Costs
    budgets: Budgets
