"""What is wanted of a machine. Values only. Next: `choose.py`, which finds the cheapest offer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from styx_server.core.machines.offer import Place


class SpotUse(StrEnum):
    """Whether a machine may be one that its owner takes back when he likes."""

    NEVER = "on_demand"
    ONLY = "spot"
    PREFER = "spot_with_fallback"
    """Spot; on demand only when no spot machine is to be had."""
    ANY = "any"
    """Whichever is cheaper."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineWish:
    """What a task says about the machine itself, beyond what it reserves there. The default says nothing.

    Attributes:
        cpus_exact: the machine has just as many cores as are reserved, not more.
        memory_exact: the same for memory.
        gpu_memory_bytes: each accelerator has at least this much.
        places: where it may be, best first in no order; empty: anywhere.
        machine_types: which types it may be; empty: any.
        arch: `x86_64`, `arm64`, or empty for whichever.
        spot: None: as the pool says.
        max_price_micros: for an hour; None: no limit of the task's own.
    """

    cpus_exact: bool = False
    memory_exact: bool = False
    gpu_memory_bytes: int = 0
    places: tuple[Place, ...] = ()
    machine_types: tuple[str, ...] = ()
    arch: str = ""
    spot: SpotUse | None = None
    max_price_micros: int | None = None


ANY_MACHINE: Final = MachineWish()
"""What most tasks say of their machine: nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedMachine:
    """What a caller says about the machine, word by word and not judged yet; see `wish.py`. The default says nothing.

    Attributes:
        infra: places, as `aws/us-east-1`.
        max_hourly_cost: in dollars; None: not given.
    """

    infra: tuple[str, ...] = ()
    machine_types: tuple[str, ...] = ()
    spot: SpotUse | None = None
    max_hourly_cost: float | None = None
    cpus_exact: bool = False
    memory_exact: bool = False
    gpu_memory_bytes: int = 0
    arch: str = ""


NOTHING_ASKED: Final = AskedMachine()


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineNeeds:
    """What an offer must have, with what the task and its pool say taken together."""

    cpus_milli: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0
    gpu_name: str = ""
    gpu_count: int = 0
    gpu_memory_bytes: int = 0
    cpus_exact: bool = False
    memory_exact: bool = False
    places: tuple[Place, ...] = ()
    machine_types: tuple[str, ...] = ()
    arch: str = ""
    spot: SpotUse = SpotUse.NEVER
    max_price_micros: int | None = None
