"""What can be rented: places, sizes, prices. Values only. Next: `needs.py`, what is wanted of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Final

MICROS: Final = 1_000_000
"""Millionths in a dollar."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Place:
    """Where a machine is, or may be. In a wish an empty part means any.

    Attributes:
        provider: `local`, `fake`, `aws`, `gcp`, `kubernetes`, `static`.
        region: as the provider calls it; for Kubernetes the context.
        zone: of the region; empty in an offer: the provider picks one.
    """

    provider: str = ""
    region: str = ""
    zone: str = ""

    def covers(self, other: Place) -> bool:
        """Whether `other`, a place that exists, is what this one means."""
        # An offer without a zone may end up in any of them, so it does not satisfy who wants a certain one.
        return (
            self.provider in {"", other.provider}
            and self.region in {"", other.region}
            and self.zone in {"", other.zone}
        )

    def __str__(self) -> str:
        """As an infra string: `aws/us-east-1/us-east-1a`."""
        return "/".join(part or "*" for part in (self.provider, self.region, self.zone)).rstrip("/*") or "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineSize:
    """What a machine has. `gpu_memory_bytes` is of each accelerator; `arch` is `x86_64` or `arm64`."""

    cpus_milli: int
    memory_bytes: int
    gpu_name: str = ""
    gpu_count: int = 0
    gpu_memory_bytes: int = 0
    arch: str = "x86_64"


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogEntry:
    """One type of machine in one place, with what it costs there.

    Attributes:
        price_micros: an hour on demand; None: not to be had so.
        spot_price_micros: an hour as spot; None: not to be had so.
        gpus_attached: the accelerators are not part of the type but asked for beside it, as with N1 of Google Cloud.
        estimate: the price was typed in by a person and may be old; it is good for a ranking, not for a bill.
        fetch_time: when somebody last looked.
    """

    place: Place
    machine_type: str
    size: MachineSize
    price_micros: int | None
    spot_price_micros: int | None
    gpus_attached: bool = False
    estimate: bool = False
    fetch_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """Something that can be rented for a price."""

    place: Place
    machine_type: str
    size: MachineSize
    spot: bool
    price_micros: int
    gpus_attached: bool = False
    estimate: bool = False

    def __str__(self) -> str:
        """For people: type, place, and how."""
        return f"{self.machine_type} {'spot ' if self.spot else ''}in {self.place}"


def offers_of(entries: Iterable[CatalogEntry]) -> Iterator[Offer]:
    """What each entry can be rented as: on demand, spot, or both."""
    for entry in entries:
        for spot, price in ((False, entry.price_micros), (True, entry.spot_price_micros)):
            if price is not None:
                yield Offer(
                    place=entry.place,
                    machine_type=entry.machine_type,
                    size=entry.size,
                    spot=spot,
                    price_micros=price,
                    gpus_attached=entry.gpus_attached,
                    estimate=entry.estimate,
                )
