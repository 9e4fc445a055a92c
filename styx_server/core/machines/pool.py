"""What a pool may have, and how it lives. Values only. Next: `scale.py`, which wishes for machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from styx_server.core.machines.needs import SpotUse
from styx_server.core.machines.offer import Place

DEFAULT_IDLE_SECONDS = 300.0
DEFAULT_MAX_MACHINES = 10
DEFAULT_LIFE_SECONDS = 7 * 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSpec:
    """What an operator says about a pool.

    Attributes:
        min_machines: as many are kept, also without work.
        max_machines: never more than these; 0: none is ever rented, the pool has only what joins by itself.
        idle_seconds: a machine without work for this long is given back.
        spot: for tasks that do not say.
        places: where machines may be; empty: anywhere that is configured.
        machine_types: which; empty: any that fits.
        max_price_micros: of all machines of the pool together, for an hour; None: no limit.
        image: empty: the provider's default.
        labels: on its agents, over those that agents give themselves.
        disk_bytes: of each machine; 0: the provider's default, or what the task asks for if that is more.
        life_seconds: no machine lives longer than this.
    """

    min_machines: int = 0
    max_machines: int = DEFAULT_MAX_MACHINES
    idle_seconds: float = DEFAULT_IDLE_SECONDS
    spot: SpotUse = SpotUse.NEVER
    places: tuple[Place, ...] = ()
    machine_types: tuple[str, ...] = ()
    max_price_micros: int | None = None
    image: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    disk_bytes: int = 0
    life_seconds: float = DEFAULT_LIFE_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """One pool as it is stored. `implicit`: nobody made it; it serves tasks that only name what they need."""

    name: str
    spec: PoolSpec
    implicit: bool = False
    generation: int = 1
    create_time: datetime | None = None
