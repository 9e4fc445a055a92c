"""A cloud in memory: keeps a ledger of every machine it ever made, and does badly on demand.

It does what the worst of real ones do: forgets to answer, answers late, lists with a lag, takes machines back. What it
does not model: images, networks, prices, permissions, and a machine that does anything by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from random import Random

from styx_server.core.machines.instance import TAG_DEPLOYMENT, CloudMachine, MachineState, RentOrder
from styx_server.core.machines.offer import CatalogEntry, MachineSize, Offer, Place
from styx_server.core.machines.refusal import RefusalKind
from styx_server.providers.ports import CheckReport, Finding, ProviderError

HOME = Place(provider="cloud", region="here", zone="here-a")
SMALL = MachineSize(cpus_milli=2000, memory_bytes=4 << 30)


def an_offer(*, spot: bool = False, price_micros: int = 100_000, zone: str = "here-a") -> Offer:
    """Two cores for a dime."""
    place = replace(HOME, zone=zone)
    return Offer(place=place, machine_type="small", size=SMALL, spot=spot, price_micros=price_micros)


@dataclass
class Cloud:
    """A provider, and a hand on its other side.

    Attributes:
        ledger: every machine that was ever made, by its id.
        calls: how often each verb was called.
        refusals: what the next rents are answered with.
        lost: so many answers of rents to come are lost after the machine was made.
        away: every call fails.
        unlisted: machines that the next list leaves out.
        before: called before each rent is carried out, for what happens meanwhile.
    """

    name: str = "cloud"
    ledger: dict[str, CloudMachine] = field(default_factory=dict)
    orders: dict[str, RentOrder] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    refusals: list[RefusalKind] = field(default_factory=list)
    lost: int = 0
    away: bool = False
    unlisted: set[str] = field(default_factory=set)
    dice: Random = field(default_factory=lambda: Random(1))  # noqa: S311 - a seed is the point
    before: Callable[[], None] = lambda: None

    async def offers(self) -> Sequence[CatalogEntry]:
        """One type."""
        now = datetime.now(UTC)
        entry = CatalogEntry(
            place=HOME, machine_type="small", size=SMALL, price_micros=100_000, spot_price_micros=30_000, fetch_time=now
        )
        return [entry]

    async def rent(self, order: RentOrder) -> CloudMachine:
        """Makes a machine, once for each key."""
        self._count("rent")
        self.before()
        await asyncio.sleep(0)
        if self.refusals:
            kind = self.refusals.pop(0)
            raise ProviderError(kind, f"no: {kind.value}", code="NO")
        machine = self._made(order)
        if self.lost:
            self.lost -= 1
            raise ProviderError(RefusalKind.TIMEOUT, "no answer", code="lost")
        return machine

    def _made(self, order: RentOrder) -> CloudMachine:
        if order.key in self.orders:
            assert self.orders[order.key] == order, "the same key came with another order"
            return next(machine for machine in self.ledger.values() if machine.key == order.key)
        self.orders[order.key] = order
        cloud_id = f"m-{len(self.ledger) + 1}"
        machine = CloudMachine(
            place=order.offer.place, cloud_id=cloud_id, state=MachineState.RUNNING, key=order.key, tags=order.tags
        )
        self.ledger[cloud_id] = machine
        return machine

    async def release(self, place: Place, cloud_id: str) -> None:
        """Ends a machine."""
        del place
        self._count("release")
        await asyncio.sleep(0)
        if (machine := self.ledger.get(cloud_id)) is not None:
            self.ledger[cloud_id] = replace(machine, state=MachineState.ENDED)

    async def list(self, deployment: str, region: str) -> Sequence[CloudMachine]:
        """All with the tag of a deployment, those that have ended too."""
        self._count("list")
        await asyncio.sleep(0)
        hidden, self.unlisted = self.unlisted, set()
        return [
            machine
            for machine in self.ledger.values()
            if machine.tags.get(TAG_DEPLOYMENT) == deployment
            and machine.place.region == region
            and machine.cloud_id not in hidden
        ]

    async def check(self) -> CheckReport:
        """Good."""
        return CheckReport(provider=self.name, identity="test", findings=(Finding(good=True, what="all"),))

    async def close(self) -> None:
        """Nothing to do."""

    def take_back(self, cloud_id: str) -> None:
        """Spot is spot."""
        self.ledger[cloud_id] = replace(self.ledger[cloud_id], state=MachineState.ENDED, reason="preempted")

    @property
    def running(self) -> list[CloudMachine]:
        """What costs money."""
        return [machine for machine in self.ledger.values() if machine.state is not MachineState.ENDED]

    def _count(self, verb: str) -> None:
        self.calls[verb] = self.calls.get(verb, 0) + 1
        if self.away:
            raise ProviderError(RefusalKind.UNAVAILABLE, "the cloud is away", code="503")
