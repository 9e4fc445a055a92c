"""What EC2 rents out and for how much, from its own interfaces. Blocks; called in a thread.

Types and the zones that have them come from EC2, spot prices from their history, prices on demand from the price list,
which is served from one region for all. Next: `core/machines/offer.py`, what becomes of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

from styx_server.core.machines.offer import MICROS, CatalogEntry, MachineSize, Place
from styx_server.providers.aws.account import Account
from styx_server.providers.aws.client import Clients
from styx_server.providers.aws.request import PROVIDER
from styx_server.providers.aws.settings import AwsSettings

PRICING_REGION: Final = "us-east-1"
MIB: Final = 1024**2

GPU_NAMES: Final[Mapping[tuple[str, int], str]] = {
    ("V100", 32): "V100-32GB",
    ("A100", 80): "A100-80GB",
    ("RTX PRO Server 6000", 96): "RTX-PRO-6000",
}
"""What people call an accelerator, from EC2's name and its memory in GiB, where EC2's name does not say it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Of one region: on demand by type, and as spot by type and zone."""

    on_demand: Mapping[str, int]
    spot: Mapping[tuple[str, str], int]


def read_region(
    clients: Clients, account: Account, settings: AwsSettings, region: str, now: datetime
) -> list[CatalogEntry]:
    """All that can be rented in a region."""
    ec2 = clients.get("ec2", region, patient=True)
    zones = {subnet.zone for subnet in account.own_subnets(region) or account.default_subnets(region)}
    sizes = dict(_sizes(ec2, settings))
    prices = Prices(
        on_demand=dict(_on_demand(clients.get("pricing", PRICING_REGION, patient=True), region)),
        spot=_spot(ec2, settings, now),
    )
    return list(_entries(sizes, sorted(_offerings(ec2, zones, settings)), prices, region, now))


def _entries(
    sizes: Mapping[str, tuple[MachineSize, bool]],
    offerings: list[tuple[str, str]],
    prices: Prices,
    region: str,
    now: datetime,
) -> Iterator[CatalogEntry]:
    for machine_type, zone in offerings:
        if machine_type not in sizes:
            continue
        size, as_spot = sizes[machine_type]
        price = prices.on_demand.get(machine_type)
        spot_price = prices.spot.get((machine_type, zone)) if as_spot else None
        if price is None and spot_price is None:
            continue
        yield CatalogEntry(
            place=Place(provider=PROVIDER, region=region, zone=zone),
            machine_type=machine_type,
            size=size,
            price_micros=price,
            spot_price_micros=spot_price,
            fetch_time=now,
        )


def _sizes(ec2: Any, settings: AwsSettings) -> Iterator[tuple[str, tuple[MachineSize, bool]]]:
    """Each type with its size, and whether it can be had as spot."""
    for page in ec2.get_paginator("describe_instance_types").paginate(Filters=_type_filter(settings)):
        for info in page["InstanceTypes"]:
            size = size_of(info)
            if size is not None:
                yield info["InstanceType"], (size, "spot" in info.get("SupportedUsageClasses", ()))


def _offerings(ec2: Any, zones: set[str], settings: AwsSettings) -> Iterator[tuple[str, str]]:
    """Which type is to be had in which zone."""
    pages = ec2.get_paginator("describe_instance_type_offerings")
    for page in pages.paginate(LocationType="availability-zone", Filters=_type_filter(settings)):
        for offering in page["InstanceTypeOfferings"]:
            if offering["Location"] in zones:
                yield offering["InstanceType"], offering["Location"]


def _type_filter(settings: AwsSettings) -> list[dict[str, Any]]:
    if not settings.machine_types:
        return []
    return [{"Name": "instance-type", "Values": list(settings.machine_types)}]


def size_of(info: Mapping[str, Any]) -> MachineSize | None:
    """What a type has; None for what Styx cannot use: a part of an accelerator, macOS, 32 bits."""
    arches = info["ProcessorInfo"]["SupportedArchitectures"]
    arch = next((each for each in ("x86_64", "arm64") if each in arches), None)
    if arch is None:
        return None
    device, name, count = _accelerator(info)
    if device is not None and count == 0:
        return None
    memory_mib = (device or {}).get("MemoryInfo", {}).get("SizeInMiB", 0)
    return MachineSize(
        cpus_milli=info["VCpuInfo"]["DefaultVCpus"] * 1000,
        memory_bytes=info["MemoryInfo"]["SizeInMiB"] * MIB,
        gpu_name=gpu_name(name, memory_mib) if count else "",
        gpu_count=count,
        gpu_memory_bytes=memory_mib * MIB,
        arch=arch,
    )


def _accelerator(info: Mapping[str, Any]) -> tuple[Mapping[str, Any] | None, str, int]:
    """The accelerators of a type, of whom EC2 speaks in two ways: GPUs, and Amazon's own for neural networks."""
    devices = info.get("GpuInfo", {}).get("Gpus") or info.get("NeuronInfo", {}).get("NeuronDevices") or []
    if not devices:
        return None, "", 0
    return devices[0], devices[0].get("Name", ""), devices[0].get("Count", 0)


def gpu_name(name: str, memory_mib: int) -> str:
    """An accelerator as people write it: `A100`, `A100-80GB`, `L4`."""
    return GPU_NAMES.get((name, round(memory_mib / 1024)), name.replace(" ", "-"))


def _spot(ec2: Any, settings: AwsSettings, now: datetime) -> dict[tuple[str, str], int]:
    """What spot machines cost now. The history from now on begins with the price in force."""
    latest: dict[tuple[str, str], tuple[datetime, int]] = {}
    pages = ec2.get_paginator("describe_spot_price_history")
    linux = ["Linux/UNIX"]
    for page in pages.paginate(StartTime=now, ProductDescriptions=linux, Filters=_type_filter(settings)):
        for each in page["SpotPriceHistory"]:
            key = (each["InstanceType"], each["AvailabilityZone"])
            seen = (each["Timestamp"], micros(each["SpotPrice"]))
            latest[key] = max(seen, latest.get(key, seen))
    return {key: price for key, (_, price) in latest.items()}


def _on_demand(pricing: Any, region: str) -> Iterator[tuple[str, int]]:
    """What Linux costs by the hour, without a contract and on shared hardware."""
    wanted = {
        "regionCode": region,
        "operatingSystem": "Linux",
        "tenancy": "Shared",
        "preInstalledSw": "NA",
        "capacitystatus": "Used",
        "marketoption": "OnDemand",
    }
    filters = [{"Type": "TERM_MATCH", "Field": field, "Value": value} for field, value in wanted.items()]
    for page in pricing.get_paginator("get_products").paginate(ServiceCode="AmazonEC2", Filters=filters):
        for text in page["PriceList"]:
            product = json.loads(text)
            price = _hourly(product.get("terms", {}).get("OnDemand", {}))
            if price:
                yield product["product"]["attributes"]["instanceType"], price


def _hourly(terms: Mapping[str, Any]) -> int | None:
    dimensions = [each for term in terms.values() for each in term["priceDimensions"].values()]
    prices = [micros(each["pricePerUnit"]["USD"]) for each in dimensions if each.get("unit") == "Hrs"]
    return max(prices, default=None)


def micros(dollars: str) -> int:
    """Millionths of a dollar, exactly."""
    return int((Decimal(dollars) * MICROS).to_integral_value())
