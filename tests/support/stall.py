"""A provider that shows its prices and sells nothing: for tests of what people ask before anything is rented."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from styx_server.clock import now
from styx_server.core.machines.instance import CloudMachine, RentOrder
from styx_server.core.machines.offer import CatalogEntry, MachineSize, Place
from styx_server.core.machines.refusal import RefusalKind
from styx_server.providers.ports import CheckReport, Finding, ProviderError
from tests.support.builders import GIB

SMALL = MachineSize(cpus_milli=4000, memory_bytes=16 * GIB)
ONE_L4 = MachineSize(cpus_milli=4000, memory_bytes=16 * GIB, gpu_name="L4", gpu_count=1, gpu_memory_bytes=24 * GIB)
FOUR_L4 = MachineSize(cpus_milli=48000, memory_bytes=192 * GIB, gpu_name="L4", gpu_count=4, gpu_memory_bytes=24 * GIB)


def an_entry(region: str, machine_type: str, size: MachineSize, price: int, spot: int | None = None) -> CatalogEntry:
    """A type in a place; prices in thousandths of a dollar."""
    return CatalogEntry(
        place=Place(provider="fake", region=region),
        machine_type=machine_type,
        size=size,
        price_micros=price * 1000,
        spot_price_micros=None if spot is None else spot * 1000,
        fetch_time=now(),
    )


def some_entries() -> list[CatalogEntry]:
    """Three types in two regions."""
    return [
        an_entry("north", "small", SMALL, 200, 60),
        an_entry("south", "small", SMALL, 190),
        an_entry("north", "one-l4", ONE_L4, 800, 300),
        an_entry("south", "four-l4", FOUR_L4, 4000, 1500),
    ]


@dataclass
class Stall:
    """A provider.

    Attributes:
        broken: each question is answered with an error.
    """

    name: str = "fake"
    entries: list[CatalogEntry] = field(default_factory=some_entries)
    broken: bool = False

    async def offers(self) -> Sequence[CatalogEntry]:
        """Its prices."""
        self._fail()
        return self.entries

    async def check(self) -> CheckReport:
        """Good, but for one thing."""
        self._fail()
        findings = (Finding(good=True, what="2 regions"), Finding(good=False, what="no image", remedy="make one"))
        return CheckReport(provider=self.name, identity="me@fake", findings=findings)

    async def rent(self, order: RentOrder) -> CloudMachine:
        """Never."""
        raise ProviderError(RefusalKind.CAPACITY, f"no {order.offer}", code="NO")

    async def release(self, place: Place, cloud_id: str) -> None:
        """Nothing is there."""

    async def list(self, deployment: str, region: str) -> Sequence[CloudMachine]:
        """Nothing is there."""
        del deployment, region
        return ()

    async def close(self) -> None:
        """Nothing is open."""

    def _fail(self) -> None:
        if self.broken:
            raise ProviderError(RefusalKind.CREDENTIALS, "the key is not known", code="BadKey")
