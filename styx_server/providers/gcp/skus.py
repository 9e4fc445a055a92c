"""Reads Google's public price list. Pure.

The list has no machine types. It has an article for a core, a gibibyte of memory or an accelerator of a family of
machines in some regions, told apart by a sentence in English: `Spot Preemptible N2 Instance Ram running in Americas`.
What is not understood is left out, so a type without a price is not offered rather than offered too cheaply. Next:
`catalog.py`, which adds the parts up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from styx_server.providers.gcp.gpus import BY_SKU

_HOURS_IN_A_MONTH: Final = 730


class Part(StrEnum):
    """What an article is a unit of."""

    CORE = "core"
    MEMORY = "memory"
    GPU = "gpu"
    SSD = "ssd"


@dataclass(frozen=True, slots=True, kw_only=True)
class Article:
    """What is sold. `family`: of machines, or the accelerator's type; empty for local disks."""

    part: Part
    family: str
    region: str
    spot: bool


PriceList = Mapping[Article, float]
"""Micros for an hour: of one core, one GiB of memory, one accelerator, one GiB of local disk."""

# Not sold by the hour to everybody, or not a part of the types that are offered.
_OTHER: Final = re.compile(
    r"custom|extended|sole tenancy|reserved|commitment|premium|upgrade|calendar|dws|defined duration|vws|workstation",
    re.IGNORECASE,
)
_FAMILY: Final = re.compile(
    r"^(?P<family>[\w -]+?)(?: Predefined| AMD| Arm| Memory-optimized)?(?: Instance)? (?P<part>Core|Ram) running in",
    re.IGNORECASE,
)
_GPU: Final = re.compile(r"^(?:Nvidia )?(?:Tesla )?(?P<gpu>[\w ]+?) (?:GPU|\(1 gpu slice\))", re.IGNORECASE)
_SSD: Final = re.compile(r"^SSD backed Local Storage(?! \()", re.IGNORECASE)
_NAMED: Final = {
    "compute optimized": "c2",
    "memory-optimized": "m1",
    "a3plus": "a3-megagpu",
    "a3 plus": "a3-megagpu",
    "a3ultra": "a3-ultragpu",
    "a3 ultra": "a3-ultragpu",
}
"""Families whose words in the list are not the beginning of their types' names."""


def read_prices(skus: Iterable[Mapping[str, Any]]) -> dict[Article, float]:
    """What machines are made of, and what it costs."""
    prices: dict[Article, float] = {}
    for sku in skus:
        usage = sku.get("category", {}).get("usageType", "")
        if usage not in {"OnDemand", "Preemptible"}:
            continue
        found = _part_of(str(sku.get("description", "")))
        price = _price_of(sku)
        if found is None or price is None:
            continue
        part, family = found
        for region in sku.get("serviceRegions", ()):
            article = Article(part=part, family=family, region=region, spot=usage == "Preemptible")
            # Two articles with the same words: whoever is charged the dearer one was not promised the other.
            prices[article] = max(price, prices.get(article, 0.0))
    return prices


def _part_of(description: str) -> tuple[Part, str] | None:
    if _OTHER.search(description):
        return None
    words = re.sub(r"^(Spot )?Preemptible ", "", description)
    if match := _FAMILY.match(words):
        part = Part.CORE if match["part"].casefold() == "core" else Part.MEMORY
        family = match["family"].strip().casefold()
        return part, _NAMED.get(family, family)
    if _SSD.match(words):
        return Part.SSD, ""
    if match := _GPU.match(words):
        gpu = BY_SKU.get(match["gpu"].strip().casefold())
        return (Part.GPU, gpu.accelerator_type) if gpu else None
    return None


def _price_of(sku: Mapping[str, Any]) -> float | None:
    """Micros for an hour of one unit; None when it is charged in another way."""
    try:
        expression = sku["pricingInfo"][0]["pricingExpression"]
        price = expression["tieredRates"][-1]["unitPrice"]
        dollars = int(price.get("units") or 0) + int(price.get("nanos") or 0) / 1e9
    except (KeyError, IndexError, TypeError, ValueError):
        return None
    if price.get("currencyCode", "USD") != "USD" or dollars <= 0:
        return None
    match expression.get("usageUnit"):
        case "h" | "GiBy.h":
            return dollars * 1e6
        case "GiBy.mo":
            return dollars * 1e6 / _HOURS_IN_A_MONTH
        case _:
            return None
