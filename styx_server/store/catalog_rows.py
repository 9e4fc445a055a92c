"""Rows of the catalog to domain values and back. As `rows.py`, for what there is to rent."""

from __future__ import annotations

from typing import Final

from styx_server.core.machines.offer import CatalogEntry, MachineSize, Place
from styx_server.store.database import Row

CATALOG_COLUMNS: Final = [
    "provider",
    "region",
    "zone",
    "machine_type",
    "gpu_name",
    "gpu_count",
    "gpu_memory_bytes",
    "cpus_milli",
    "memory_bytes",
    "arch",
    "price_micros",
    "spot_price_micros",
    "gpus_attached",
    "estimate",
    "fetch_time",
]

CatalogKey = tuple[str, str, str, str, int]
"""Region, zone, type, name and number of accelerators: what there is once for each provider."""


def catalog_key(entry: CatalogEntry) -> CatalogKey:
    """The key of an entry among those of its provider."""
    return entry.place.region, entry.place.zone, entry.machine_type, entry.size.gpu_name, entry.size.gpu_count


def catalog_record(entry: CatalogEntry) -> tuple[object, ...]:
    """An entry as it is copied into the table, in the order of `CATALOG_COLUMNS`."""
    size = entry.size
    return (
        entry.place.provider,
        *catalog_key(entry),
        size.gpu_memory_bytes,
        size.cpus_milli,
        size.memory_bytes,
        size.arch,
        entry.price_micros,
        entry.spot_price_micros,
        entry.gpus_attached,
        entry.estimate,
        entry.fetch_time,
    )


def catalog_entry(provider: str, row: Row) -> CatalogEntry:
    """A stored entry."""
    return CatalogEntry(
        place=Place(provider=provider, region=row["region"], zone=row["zone"]),
        machine_type=row["machine_type"],
        size=MachineSize(
            cpus_milli=row["cpus_milli"],
            memory_bytes=row["memory_bytes"],
            gpu_name=row["gpu_name"],
            gpu_count=row["gpu_count"],
            gpu_memory_bytes=row["gpu_memory_bytes"],
            arch=row["arch"],
        ),
        price_micros=row["price_micros"],
        spot_price_micros=row["spot_price_micros"],
        gpus_attached=row["gpus_attached"],
        estimate=row["estimate"],
        fetch_time=row["fetch_time"],
    )
