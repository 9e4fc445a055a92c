"""The four verbs of the port, for EC2. Blocking work is plain functions elsewhere, handed to threads here.

Decides nothing about where to rent: it does what the order says. Next: `instances.py`, the machines themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from styx_server.clock import Clock, SystemClock
from styx_server.core.machines.instance import CloudMachine, RentOrder
from styx_server.core.machines.offer import CatalogEntry, Place
from styx_server.providers.aws import catalog, instances
from styx_server.providers.aws.account import Account
from styx_server.providers.aws.check import check
from styx_server.providers.aws.client import Clients
from styx_server.providers.aws.request import PROVIDER
from styx_server.providers.aws.settings import AwsSettings
from styx_server.providers.ports import CheckReport


class AwsProvider:
    """EC2, in the regions of one account."""

    def __init__(self, settings: AwsSettings, clock: Clock | None = None) -> None:
        """Connects to nothing; the first call does.

        Args:
            settings: which account, where.
            clock: tells when prices were fetched.
        """
        self._settings = settings
        self._clock = clock or SystemClock()
        self._clients = Clients(settings)
        self._account = Account(settings, self._clients, self._clock.monotonic)

    @property
    def name(self) -> str:
        """The first part of its places."""
        return PROVIDER

    async def offers(self) -> Sequence[CatalogEntry]:
        """All types in the zones where machines can be put, with today's prices on demand and as spot.

        Some hundred calls for each region, so about a minute.
        """

        async def of(region: str) -> list[CatalogEntry]:
            return await self._clients.call(
                lambda: catalog.read_region(self._clients, self._account, self._settings, region, self._clock.now()),
                f"prices of aws/{region}",
                patient=True,
            )

        regions = await asyncio.gather(*(of(region) for region in self._settings.regions))
        return [entry for entries in regions for entry in entries]

    async def rent(self, order: RentOrder) -> CloudMachine:
        """Runs one instance, or finds the one of this key. EC2 answers for good: what it accepts exists.

        That it exists does not yet mean that it starts: rarely a machine ends at once, with the reason on its entry in
        the list (`capacity`, when there was none after all).
        """
        return await self._clients.call(
            lambda: instances.rent(self._clients, self._account, self._settings, order), str(order.offer)
        )

    async def release(self, place: Place, cloud_id: str) -> None:
        """Terminates an instance, and with it its disk and its spot request."""
        await self._clients.call(
            lambda: instances.release(self._clients, place.region, cloud_id), f"ending {cloud_id} in {place}"
        )

    async def list(self, deployment: str, region: str) -> Sequence[CloudMachine]:
        """All of this deployment's, from the list of machines and from that of spot requests.

        EC2 keeps an ended machine on its list for about an hour, but may take its tags off sooner, and then it is not
        found here any more. Spot requests keep theirs, so a machine that was taken back is found there.
        """
        return await self._clients.call(
            lambda: instances.list_machines(self._clients, self._settings, deployment, region),
            f"the list of aws/{region}",
        )

    async def check(self) -> CheckReport:
        """Who Styx is to Amazon, and whether each region lets it do what it must. Makes nothing."""
        return await self._clients.call(lambda: check(self._clients, self._account, self._settings), "aws")

    async def close(self) -> None:
        """Lets go of connections and threads."""
        self._clients.close()
