"""Prices of common machine types, typed in from public lists, for a start before any provider was asked.

Every entry is an estimate and says so. One CSV for each provider, a row for each type, a column for each region;
`places.toml` has the date and the zones. Spot prices move all the time: here they are a usual share of the price on
demand. Next: `services/catalog.py`, which loads this where nothing better is known.
"""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from fnmatch import fnmatchcase
from importlib import resources
from typing import Any, Final

from styx_server.core.machines.offer import MICROS, CatalogEntry, MachineSize, Place

PROVIDERS: Final = ("aws", "gcp")
"""Whose prices there are here."""

_GIB: Final = 2**30
_OTHER_COLUMNS: Final = 9


def entries(provider: str) -> list[CatalogEntry]:
    """All entries of one provider.

    Raises:
        ValueError: there are none of it.
    """
    if provider not in PROVIDERS:
        raise ValueError(f"there are no prices of {provider} here; there are those of {', '.join(PROVIDERS)}")
    places = tomllib.loads(_text("places.toml"))
    zones = places.get(provider, {})
    rows = csv.DictReader(_text(f"{provider}.csv").splitlines())
    regions = (rows.fieldnames or [])[_OTHER_COLUMNS:]
    return [
        entry
        for row in rows
        for region in regions
        if row[region]
        for entry in _entries_of(provider, row, region, zones)
    ]


def as_of() -> datetime:
    """When the prices were looked up."""
    day: date = tomllib.loads(_text("places.toml"))["as_of"]
    return datetime.combine(day, time(), UTC)


def _entries_of(provider: str, row: Mapping[str, str], region: str, zones: Mapping[str, Any]) -> Iterator[CatalogEntry]:
    price = Decimal(row[region])
    attached = row["attached"] == "yes"
    for zone in _zones_of(row["machine_type"] + (f"+{row['gpu']}" if attached else ""), region, zones):
        yield CatalogEntry(
            place=Place(provider=provider, region=region, zone=zone),
            machine_type=row["machine_type"],
            size=MachineSize(
                cpus_milli=int(row["cpus"]) * 1000,
                memory_bytes=int(Decimal(row["memory_gib"]) * _GIB),
                gpu_name=row["gpu"],
                gpu_count=int(row["gpu_count"] or 0),
                gpu_memory_bytes=int(row["gpu_gib"] or 0) * _GIB,
                arch=row["arch"],
            ),
            price_micros=round(price * MICROS),
            spot_price_micros=round(price * Decimal(row["spot_share"]) * MICROS),
            gpus_attached=attached,
            estimate=True,
            fetch_time=as_of(),
        )


def _zones_of(machine_type: str, region: str, zones: Mapping[str, Any]) -> list[str]:
    for exception in zones.get("only", ()):
        if fnmatchcase(machine_type, exception["types"]):
            return [f"{region}-{letter}" for letter in exception["zones"].get(region, ())]
    return [f"{region}-{letter}" for letter in zones.get("zones", {}).get(region, ())] or [""]


def _text(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text("utf-8")
