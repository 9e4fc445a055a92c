"""What the made-up cloud has: regions, types of machines, prices, and whether something is out of stock. Pure.

All chance comes from a seed, so the same seed gives the same cloud. Next: `fake_rules.py`, how it behaves.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from datetime import datetime
from typing import Final

from styx_server.core.machines.offer import MICROS, CatalogEntry, MachineSize, Place

NAME: Final = "fake"
ZONES: Final = {
    "meadow": ("meadow-a", "meadow-b", "meadow-c"),
    "harbor": ("harbor-a", "harbor-b"),
    "summit": ("summit-a", "summit-b", "summit-c"),
}
_REGION_FACTORS: Final = {"meadow": 1.0, "harbor": 1.1, "summit": 0.94}
_HOUR_SECONDS: Final = 3600
_GIB: Final = 1 << 30

# Name: cores, GiB of memory, accelerator, how many, GiB of each, dollars an hour.
_TYPES: Final[dict[str, tuple[int, int, str, int, int, float]]] = {
    "small-1": (1, 2, "", 0, 0, 0.02),
    "small-2": (2, 8, "", 0, 0, 0.08),
    "medium-4": (4, 16, "", 0, 0, 0.16),
    "large-8": (8, 32, "", 0, 0, 0.32),
    "huge-32": (32, 128, "", 0, 0, 1.28),
    "wide-8": (8, 128, "", 0, 0, 0.54),
    "t4-1": (4, 15, "T4", 1, 16, 0.38),
    "t4-4": (48, 180, "T4", 4, 16, 2.70),
    "l4-1": (8, 32, "L4", 1, 24, 0.72),
    "l4-4": (48, 192, "L4", 4, 24, 3.60),
    "a100-8": (96, 680, "A100", 8, 40, 26.0),
    "h100-8": (208, 1872, "H100", 8, 80, 88.0),
}
_ONLY_IN: Final = {
    "t4-4": {"meadow-a", "harbor-a"},
    "l4-4": {"meadow-a", "meadow-b", "summit-a"},
    "a100-8": {"meadow-a", "harbor-b", "summit-a"},
    "h100-8": {"harbor-b", "summit-c"},
}


def size_of(machine_type: str, arch: str) -> MachineSize | None:
    """What a type has; None: there is no such type."""
    if machine_type not in _TYPES:
        return None
    cores, memory, gpu, count, gpu_memory, _ = _TYPES[machine_type]
    return MachineSize(
        cpus_milli=cores * 1000,
        memory_bytes=memory * _GIB,
        gpu_name=gpu,
        gpu_count=count,
        gpu_memory_bytes=gpu_memory * _GIB,
        arch=arch,
    )


def zones_of(machine_type: str, region: str) -> tuple[str, ...]:
    """Where in a region a type is to be had at all."""
    return tuple(zone for zone in ZONES.get(region, ()) if zone in _ONLY_IN.get(machine_type, {zone}))


def entries(seed: int, now: datetime, arch: str) -> Iterator[CatalogEntry]:
    """The whole price list. Spot prices move once an hour."""
    for region in ZONES:
        for machine_type in _TYPES:
            size = size_of(machine_type, arch)
            assert size is not None
            price = _TYPES[machine_type][-1] * _REGION_FACTORS[region]
            for zone in zones_of(machine_type, region):
                hour = int(now.timestamp()) // _HOUR_SECONDS
                share = 0.25 + 0.3 * chance(seed, "spot", zone, machine_type, hour)
                yield CatalogEntry(
                    place=Place(provider=NAME, region=region, zone=zone),
                    machine_type=machine_type,
                    size=size,
                    price_micros=_micros(price),
                    spot_price_micros=_micros(price * share),
                    fetch_time=now,
                )


def chance(seed: int, *words: object) -> float:
    """A fraction in [0, 1) that the seed and the words decide."""
    digest = hashlib.sha256(repr((seed, *words)).encode()).digest()
    return int.from_bytes(digest[:6], "big") / (1 << 48)


def waiting_time(mean_seconds: float, fraction: float) -> float:
    """When something happens that happens once in `mean_seconds` and remembers nothing."""
    return -mean_seconds * math.log(1.0 - fraction)


def _micros(dollars: float) -> int:
    return round(dollars * MICROS / 100) * 100
