"""What Google has to rent, and what it costs: types by zone, with prices put together from the parts of the price list.

Not offered: types without a price in the list, and types with local disks whose size the list of types does not say.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from styx_server.core.machines.offer import CatalogEntry, MachineSize
from styx_server.providers.gcp.calls import PAGE, Clients, Google
from styx_server.providers.gcp.gpus import ATTACHED, BY_TYPE
from styx_server.providers.gcp.machine import last_part, place_of
from styx_server.providers.gcp.skus import Article, Part, PriceList, read_prices

if TYPE_CHECKING:
    from google.cloud import compute_v1

_COMPUTE: Final = "6F81-5844-456A"
"""Compute Engine, in the price list."""

_SHARED: Final = {"e2-micro": 0.25, "e2-small": 0.5, "e2-medium": 1.0}
"""Types that are charged for less than the cores they show."""

_SSD_GIB: Final = 375
"""Of a local disk, in the types with accelerators."""

_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Sold:
    """One type in one zone, as Google lists it."""

    zone: str
    machine_type: str
    cores: int
    memory_mib: int
    arch: str
    gpu_type: str = ""
    gpu_count: int = 0
    local_disks: int = 0


async def fetch_catalog(google: Google, now: datetime) -> Sequence[CatalogEntry]:
    """All that can be rented in the regions that were set."""
    doing = "reading what Google Cloud offers"
    prices, zones = await asyncio.gather(
        google.ask(f"{doing} (prices)", _read_prices), google.ask(f"{doing} (zones)", _read_zones)
    )
    wanted = google.settings.regions
    chosen = [zone for zone in zones if not wanted or place_of(zone).region in wanted]
    # Some threads are left for those who rent meanwhile.
    turns = asyncio.Semaphore(max(1, google.settings.threads // 2))

    async def read(zone: str) -> tuple[list[Sold], list[str]]:
        async with turns:
            return await google.ask(f"{doing} in {zone}", _reader(zone))

    parts = await asyncio.gather(*map(read, chosen))
    return [entry for types, attachable in parts for entry in entries_of(types, attachable, prices, now)]


def entries_of(
    types: Iterable[Sold], attachable: Iterable[str], prices: PriceList, now: datetime
) -> Iterator[CatalogEntry]:
    """The types of a zone, each as it is and with what can be added to it, if the price is known."""
    added = [kind for kind in attachable if kind in ATTACHED]
    for sold in types:
        for kind, count in ((sold.gpu_type, sold.gpu_count), *_with(sold, added)):
            entry = _entry(sold, kind, count, prices, now)
            if entry is not None:
                yield entry


def _with(sold: Sold, added: Iterable[str]) -> Iterator[tuple[str, int]]:
    """What can be added to a type: only the family N1 takes accelerators, each so many cores."""
    if not sold.machine_type.startswith("n1-") or sold.gpu_type:
        return
    for kind in added:
        for count, most_cores in ATTACHED[kind].items():
            if sold.cores <= most_cores:
                yield kind, count


def _entry(sold: Sold, kind: str, count: int, prices: PriceList, now: datetime) -> CatalogEntry | None:
    if kind and kind not in BY_TYPE:
        return None
    price, spot_price = (_price(sold, kind, count, prices, spot=spot) for spot in (False, True))
    if price is None and spot_price is None:
        return None
    size = MachineSize(
        cpus_milli=sold.cores * 1000,
        memory_bytes=sold.memory_mib * _MIB,
        gpu_name=BY_TYPE[kind].name if kind else "",
        gpu_count=count,
        gpu_memory_bytes=BY_TYPE[kind].memory_bytes if kind else 0,
        arch=sold.arch,
    )
    return CatalogEntry(
        place=place_of(sold.zone),
        machine_type=sold.machine_type,
        size=size,
        price_micros=price,
        spot_price_micros=spot_price,
        gpus_attached=bool(kind) and kind != sold.gpu_type,
        fetch_time=now,
    )


def _price(sold: Sold, kind: str, count: int, prices: PriceList, *, spot: bool) -> int | None:
    """Micros for an hour of all parts together; None when one of them has no price."""
    if sold.local_disks and not sold.gpu_type:
        return None
    region = place_of(sold.zone).region

    def price(part: Part, family: str = "") -> float | None:
        return prices.get(Article(part=part, family=family, region=region, spot=spot))

    variant, series = "-".join(sold.machine_type.split("-")[:2]), sold.machine_type.split("-")[0]
    cores, memory = (price(part, variant) or price(part, series) for part in (Part.CORE, Part.MEMORY))
    gpus = price(Part.GPU, kind) if kind else 0.0
    disks = price(Part.SSD) if sold.local_disks else 0.0
    if cores is None or memory is None or gpus is None or disks is None:
        return None
    charged = _SHARED.get(sold.machine_type, float(sold.cores))
    machine = cores * charged + memory * sold.memory_mib / 1024
    return round(machine + gpus * count + disks * sold.local_disks * _SSD_GIB)


# Google's lists.


def _read_prices(clients: Clients) -> dict[Article, float]:
    base = clients.billing_endpoint
    skus: list[dict[str, Any]] = []
    token = ""
    while True:
        page = clients.json(
            "GET", f"{base}/v1/services/{_COMPUTE}/skus", params={"pageSize": "5000", "pageToken": token}
        )
        skus.extend(page.get("skus", ()))
        token = page.get("nextPageToken", "")
        if not token:
            return read_prices(skus)


def _read_zones(clients: Clients) -> list[str]:
    from google.cloud import compute_v1

    request = compute_v1.ListZonesRequest(project=clients.project, max_results=PAGE)
    return [zone.name for zone in clients.zones.list(request, **clients.options()) if zone.status == "UP"]


def _reader(zone: str) -> Callable[[Clients], tuple[list[Sold], list[str]]]:
    """Reads what a zone has: its types, and what can be added to them."""

    def read(clients: Clients) -> tuple[list[Sold], list[str]]:
        from google.cloud import compute_v1

        of_machines = compute_v1.ListMachineTypesRequest(project=clients.project, zone=zone, max_results=PAGE)
        of_gpus = compute_v1.ListAcceleratorTypesRequest(project=clients.project, zone=zone, max_results=PAGE)
        types = clients.machine_types.list(of_machines, **clients.options())
        gpus = clients.accelerator_types.list(of_gpus, **clients.options())
        return [_sold(each, zone) for each in types if not _old(each)], [each.name for each in gpus]

    return read


def _old(machine_type: compute_v1.MachineType) -> bool:
    return machine_type.deprecated.state in {"DEPRECATED", "OBSOLETE", "DELETED"}


def _sold(machine_type: compute_v1.MachineType, zone: str) -> Sold:
    gpus = list(machine_type.accelerators)
    return Sold(
        zone=zone,
        machine_type=machine_type.name,
        cores=machine_type.guest_cpus,
        memory_mib=machine_type.memory_mb,
        arch="arm64" if machine_type.architecture == "ARM64" else "x86_64",
        gpu_type=last_part(gpus[0].guest_accelerator_type) if gpus else "",
        gpu_count=gpus[0].guest_accelerator_count if gpus else 0,
        local_disks=machine_type.bundled_local_ssds.partition_count,
    )
