"""What callers of the SDK say that a task needs from a machine. Part of `models.py`, where these are found, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

Labels = Mapping[str, str]


class SpotUse(StrEnum):
    """Whether a machine may be one that its provider takes back when it likes; UNKNOWN: as the pool says."""

    UNKNOWN = "UNKNOWN"
    ON_DEMAND = "ON_DEMAND"
    SPOT = "SPOT"
    SPOT_WITH_FALLBACK = "SPOT_WITH_FALLBACK"
    ANY = "ANY"


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuRequest:
    """A number of accelerators, all of one name; an empty name means any. `memory_bytes` is of each, at least."""

    name: str = ""
    count: int = 1
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineWish:
    """Which machines a task may run on, beyond what it reserves there; says nothing by default."""

    infra: Sequence[str] = ()
    machine_types: Sequence[str] = ()
    spot: SpotUse = SpotUse.UNKNOWN
    max_hourly_cost: float | None = None
    cpus_exact: bool = False
    memory_exact: bool = False
    arch: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What a task needs from a machine; `cpus=None` means one core.

    Of `any_of` or `ordered`, of which at most one is given, any alternative will do.
    """

    cpus: float | None = None
    memory_bytes: int = 0
    gpus: GpuRequest | None = None
    disk_bytes: int = 0
    labels: Labels = field(default_factory=dict)
    any_of: Sequence[Resources] = ()
    machine: MachineWish | None = None
    ordered: Sequence[Resources] = ()
