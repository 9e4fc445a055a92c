"""What the double of Compute Engine has on its shelves: zones, types, accelerators, images, and a price list.

Shapes and words as Google's; few of each, and prices that are easy to add up.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

ZONES = ("us-central1-a", "us-central1-b", "europe-west4-a")
REGIONS = ("us-central1", "europe-west4")
IMAGES = {
    "ubuntu-os-cloud": ("ubuntu-2404-lts-amd64", "ubuntu-2404-lts-arm64"),
    "debian-cloud": ("debian-12", "debian-13"),
}

TYPES: dict[str, dict[str, Any]] = {
    "e2-small": {"guestCpus": 2, "memoryMb": 2048, "isSharedCpu": True},
    "e2-standard-4": {"guestCpus": 4, "memoryMb": 16384},
    "n1-standard-4": {"guestCpus": 4, "memoryMb": 15360},
    "n1-standard-96": {"guestCpus": 96, "memoryMb": 368640},
    "n2-standard-8": {"guestCpus": 8, "memoryMb": 32768},
    "t2a-standard-4": {"guestCpus": 4, "memoryMb": 16384, "architecture": "ARM64"},
    "n4-standard-4": {"guestCpus": 4, "memoryMb": 16384},
    "a2-highgpu-1g": {
        "guestCpus": 12,
        "memoryMb": 87040,
        "accelerators": [{"guestAcceleratorCount": 1, "guestAcceleratorType": "nvidia-tesla-a100"}],
    },
    "g2-standard-4": {
        "guestCpus": 4,
        "memoryMb": 16384,
        "accelerators": [{"guestAcceleratorCount": 1, "guestAcceleratorType": "nvidia-l4"}],
    },
    "a2-ultragpu-1g": {
        "guestCpus": 12,
        "memoryMb": 174080,
        "accelerators": [{"guestAcceleratorCount": 1, "guestAcceleratorType": "nvidia-a100-80gb"}],
        "bundledLocalSsds": {"defaultInterface": "NVME", "partitionCount": 1},
    },
    # Not to be offered: local disks of unknown size, a family without a price, one that nobody should take any more.
    "c3-standard-4-lssd": {"guestCpus": 4, "memoryMb": 16384, "bundledLocalSsds": {"partitionCount": 1}},
    "z9-standard-4": {"guestCpus": 4, "memoryMb": 16384},
    "n2-standard-2": {"guestCpus": 2, "memoryMb": 8192, "deprecated": {"state": "DEPRECATED"}},
}

ACCELERATORS = {"us-central1-a": {"nvidia-tesla-t4": 4, "nvidia-tesla-t4-vws": 4}, "us-central1-b": {}}


def skus() -> Iterator[dict[str, Any]]:
    """The price list, as its API gives it."""
    for words, group, unit, nanos in (
        ("E2 Instance Core", "CPU", "h", 20_000_000),
        ("E2 Instance Ram", "RAM", "GiBy.h", 3_000_000),
        ("N1 Predefined Instance Core", "N1Standard", "h", 30_000_000),
        ("N1 Predefined Instance Ram", "N1Standard", "GiBy.h", 4_000_000),
        ("N2 Instance Core", "CPU", "h", 31_000_000),
        ("N2 Instance Ram", "RAM", "GiBy.h", 4_200_000),
        ("N4 Instance Core", "CPU", "h", 32_000_000),
        ("N4 Instance Ram", "RAM", "GiBy.h", 4_300_000),
        ("T2A Arm Instance Core", "CPU", "h", 25_000_000),
        ("T2A Arm Instance Ram", "RAM", "GiBy.h", 3_400_000),
        ("A2 Instance Core", "CPU", "h", 31_000_000),
        ("A2 Instance Ram", "RAM", "GiBy.h", 4_200_000),
        ("G2 Instance Core", "CPU", "h", 25_000_000),
        ("G2 Instance Ram", "RAM", "GiBy.h", 2_900_000),
        ("C3 Instance Core", "CPU", "h", 33_000_000),
        ("C3 Instance Ram", "RAM", "GiBy.h", 4_400_000),
        ("Nvidia Tesla T4 GPU", "GPU", "h", 350_000_000),
        ("Nvidia L4 GPU", "GPU", "h", 560_000_000),
        ("Nvidia Tesla A100 GPU", "GPU", "h", 2_900_000_000),
        ("Nvidia Tesla A100 80GB GPU", "GPU", "h", 3_900_000_000),
    ):
        yield sku(f"{words} running in Americas", group, unit, nanos)
        spot = f"Spot Preemptible {words} running in Americas"
        if group == "GPU":
            spot = f"{words} attached to Spot Preemptible VMs running in Americas"
        yield sku(spot, group, unit, nanos // 4, usage="Preemptible")
    yield sku("SSD backed Local Storage", "SSD", "GiBy.mo", 73_000_000)
    yield sku("SSD backed Local Storage attached to Spot Preemptible VMs", "SSD", "GiBy.mo", 29_200_000, "Preemptible")
    # Words that must not be taken for the above.
    yield sku("N2 Custom Instance Core running in Americas", "CPU", "h", 1)
    yield sku("Commitment v1: N2 Cpu in Americas for 1 Year", "CPU", "h", 1, usage="Commit1Yr")
    yield sku("N2 Sole Tenancy Instance Core running in Americas", "CPU", "h", 1)
    yield sku("Reserved N2 Instance Core in Americas", "CPU", "h", 1)
    yield sku("Nvidia Tesla T4 Virtual Workstation GPU running in Americas", "GPU", "h", 1)
    yield sku("Network Internet Egress from Americas to Americas", "PremiumInternetEgress", "GiBy", 1)


def sku(words: str, group: str, unit: str, nanos: int, usage: str = "OnDemand") -> dict[str, Any]:
    """One article."""
    price = {"currencyCode": "USD", "units": str(nanos // 10**9), "nanos": nanos % 10**9}
    return {
        "description": words,
        "category": {"resourceFamily": "Compute", "resourceGroup": group, "usageType": usage},
        "serviceRegions": ["us-central1", "us-west1"],
        "pricingInfo": [{"pricingExpression": {"usageUnit": unit, "tieredRates": [{"unitPrice": price}]}}],
    }
