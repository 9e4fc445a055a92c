"""What callers of the SDK give and get about machines: pools, what is rented, what there is to rent, what it costs.

As `models.py`: frozen, typed values with the words of `protos/styx/v1/machines.proto`, whose comments are the
reference. Prices and costs in `_micros` are whole millionths of a US dollar.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from styx.models import Labels, SpotUse


class InstanceState(StrEnum):
    """Where a rented machine is in its life."""

    UNKNOWN = "UNKNOWN"
    INTENT = "INTENT"
    CREATING = "CREATING"
    LAUNCHED = "LAUNCHED"
    READY = "READY"
    DRAINING = "DRAINING"
    TERMINATING = "TERMINATING"
    TERMINATED = "TERMINATED"
    FAILED = "FAILED"


class BudgetScope(StrEnum):
    """What a budget is for."""

    UNKNOWN = "UNKNOWN"
    ALL = "ALL"
    POOL = "POOL"
    NAMESPACE = "NAMESPACE"


class BudgetPeriod(StrEnum):
    """How often a budget starts again."""

    UNKNOWN = "UNKNOWN"
    DAY = "DAY"
    MONTH = "MONTH"
    TOTAL = "TOTAL"


class CostGroup(StrEnum):
    """What the entries of a report of costs are made of; UNKNOWN asks for sums only."""

    UNKNOWN = "UNKNOWN"
    POOL = "POOL"
    NAMESPACE = "NAMESPACE"
    TASK = "TASK"
    INSTANCE = "INSTANCE"
    DAY = "DAY"
    LABEL = "LABEL"
    PROVIDER = "PROVIDER"


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSpec:
    """What an operator says about a pool; None is as usual.

    Attributes:
        max_machines: 0: none is ever rented.
        max_hourly_cost: of all its machines together, in US dollars.
    """

    min_machines: int = 0
    max_machines: int | None = None
    idle_timeout: timedelta | None = None
    spot: SpotUse = SpotUse.UNKNOWN
    infra: Sequence[str] = ()
    machine_types: Sequence[str] = ()
    max_hourly_cost: float | None = None
    image: str = ""
    labels: Labels = field(default_factory=dict)
    disk_bytes: int = 0
    max_life: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A named set of agents, and how machines are rented for it."""

    name: str
    spec: PoolSpec | None
    implicit: bool
    generation: int
    create_time: datetime | None
    agent_count: int
    instance_count: int
    hourly_price_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolPage:
    """A page of pools, by name; an empty token means that there are no more."""

    pools: Sequence[Pool]
    next_page_token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """Something that can be rented."""

    provider: str
    region: str
    zone: str
    machine_type: str
    spot: bool
    hourly_price_micros: int
    cpus: float
    memory_bytes: int
    gpu_name: str
    gpu_count: int
    gpu_memory_bytes: int
    arch: str
    estimate: bool
    fetch_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferPage:
    """A page of offers, cheapest first; an empty token means that there are no more."""

    offers: Sequence[Offer]
    next_page_token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuModel:
    """One model of accelerator, in one number."""

    name: str
    count: int
    memory_bytes: int
    offer_count: int
    cheapest: Offer | None
    cheapest_spot: Offer | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuPage:
    """A page of models, by name; an empty token means that there are no more."""

    gpus: Sequence[GpuModel]
    next_page_token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceInterval:
    """What an hour of a machine cost for a while. No end: it goes on."""

    start_time: datetime | None
    end_time: datetime | None
    hourly_price_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A machine that Styx rented, or tried to. `prices` are empty in lists."""

    id: str
    pool: str
    state: InstanceState
    reason: str
    message: str
    offer: Offer | None
    cloud_id: str
    key: str
    agent_id: str
    create_time: datetime | None
    launch_time: datetime | None
    join_time: datetime | None
    idle_time: datetime | None
    release_time: datetime | None
    end_time: datetime | None
    expire_time: datetime | None
    cost_micros: int
    prices: Sequence[PriceInterval]


@dataclass(frozen=True, slots=True, kw_only=True)
class InstancePage:
    """A page of instances, newest first; an empty token means that there are no more."""

    instances: Sequence[Instance]
    next_page_token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at, and what to do when it is not good."""

    good: bool
    what: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderCheck:
    """Whether a provider can be used, and by whom."""

    provider: str
    usable: bool
    identity: str
    findings: Sequence[Finding]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedMachines:
    """Some machines of one kind that would be rented."""

    offer: Offer | None
    count: int
    tasks_per_machine: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DroppedOffers:
    """Offers that are not good for a task, for one reason."""

    reason: str
    count: int
    example: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A place where a provider refused, which is not tried again for a while."""

    infra: str
    machine_type: str
    kind: str
    code: str
    message: str
    time: datetime | None
    until_time: datetime | None
    strike_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What would be rented for tasks, and why."""

    machines: Sequence[PlannedMachines]
    hourly_price_micros: int
    agent_ids: Sequence[str]
    alternatives: Sequence[Offer]
    dropped: Sequence[DroppedOffers]
    message: str
    refusals: Sequence[Refusal]


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogRefresh:
    """What came of asking one provider for its prices."""

    provider: str
    entry_count: int
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A limit on money, and how it stands."""

    scope: BudgetScope
    name: str
    period: BudgetPeriod
    limit_micros: int
    warn_share: float
    spent_micros: int
    warned: bool
    exhausted: bool
    create_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetPage:
    """A page of budgets; an empty token means that there are no more."""

    budgets: Sequence[Budget]
    next_page_token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CostEntry:
    """One line of a report of costs. An empty key is idle time, or tasks without the label."""

    key: str
    cost_micros: int
    held_time: timedelta | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CostReport:
    """What was spent in a span of time, and what is being spent now."""

    start_time: datetime | None
    end_time: datetime | None
    cost_micros: int
    idle_cost_micros: int
    hourly_price_micros: int
    instance_count: int
    estimate: bool
    entries: Sequence[CostEntry]
    budgets: Sequence[Budget]
    renting_frozen: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Renting:
    """How renting stands."""

    frozen: bool
    instance_count: int
    hourly_price_micros: int
