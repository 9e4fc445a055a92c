"""The provider `gcp`: the verbs of the port for Google Compute Engine. What each needs is in the modules beside it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Final

from styx_server.clock import Clock, SystemClock
from styx_server.core.machines.instance import TAG_DEPLOYMENT, CloudMachine, MachineState, RentOrder
from styx_server.core.machines.offer import CatalogEntry, Place
from styx_server.core.machines.refusal import RefusalKind
from styx_server.providers.gcp.calls import Clients, Google
from styx_server.providers.gcp.catalog import fetch_catalog
from styx_server.providers.gcp.checks import check_all
from styx_server.providers.gcp.listing import machines_named, machines_of, taken_back, zones_of
from styx_server.providers.gcp.machine import PROVIDER, machine_name, with_reason
from styx_server.providers.gcp.renting import Renter
from styx_server.providers.gcp.settings import GcpSettings
from styx_server.providers.ports import CheckReport, ProviderError

REMEMBERED: Final = timedelta(hours=24)
"""How long a spot machine that was taken back stays on the list. Google forgets its operations after two weeks."""


class GcpProvider:
    """Rents machines from Google Compute Engine."""

    def __init__(self, settings: GcpSettings, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._google = Google(settings)
        self._renter = Renter(self._google, self._clock)

    @property
    def name(self) -> str:
        """`gcp`."""
        return PROVIDER

    async def offers(self) -> Sequence[CatalogEntry]:
        """All types in all zones of the regions that were set, with the prices of the public list."""
        return await fetch_catalog(self._google, self._clock.now())

    async def rent(self, order: RentOrder) -> CloudMachine:
        """Makes the machine, and waits until Google has made up its mind, as most refusals come only then."""
        place = order.offer.place
        if place.zone:
            return await self._renter.make(order, place.zone)
        name = machine_name(order.key, order.tags.get(TAG_DEPLOYMENT, ""))
        for found in await machines_named(self._google, name, place.region):
            if found.key == order.key:
                return found
        return await self._rent_somewhere(order)

    async def _rent_somewhere(self, order: RentOrder) -> CloudMachine:
        """In the first zone of the region that has it.

        The zones have one order, and Google remembers by the request ids which of them had no room, so a call that is
        repeated ends up where the first one did. Two calls at once could be answered differently only if Google forgot
        in between; then the list shows both machines, and one of them is ended.
        """
        refusals: list[ProviderError] = []
        for zone in await zones_of(self._google, order.offer.place.region):
            try:
                return await self._renter.make(order, zone)
            except ProviderError as error:
                if error.kind not in {RefusalKind.CAPACITY, RefusalKind.BAD_TYPE}:
                    raise
                refusals.append(error)
        # A type that some zones do not have is to be had in the region, once those that have it have room.
        for refusal in sorted(refusals, key=lambda error: error.kind is not RefusalKind.CAPACITY):
            raise refusal
        raise ProviderError(
            RefusalKind.BAD_REQUEST,
            f"renting in {order.offer.place}: Google Cloud has no such region, or none of its zones is up. "
            "`gcloud compute regions list` shows the regions.",
            code="no_zone",
        )

    async def release(self, place: Place, cloud_id: str) -> None:
        """Deletes a machine with its disk. Google goes on by itself once it has accepted."""
        zones = [place.zone]
        if not place.zone:
            zones = [each.place.zone for each in await machines_named(self._google, cloud_id, place.region)]
        for zone in zones:
            await self._delete(zone, cloud_id)

    async def _delete(self, zone: str, name: str) -> None:
        def delete(clients: Clients) -> None:
            from google.api_core.exceptions import NotFound
            from google.cloud import compute_v1

            request = compute_v1.DeleteInstanceRequest(project=clients.project, zone=zone, instance=name)
            with suppress(NotFound):
                clients.instances.delete_unary(request, **clients.options())

        await self._google.ask(f"giving back {name} in {PROVIDER}, zone {zone}", delete)

    async def list(self, deployment: str, region: str) -> Sequence[CloudMachine]:
        """All machines of a deployment in a region.

        A machine that was stopped has ended and is listed so, but its disk costs money until it is deleted. That is
        done here, as nobody gives back what has ended.
        """
        there = await machines_of(self._google, deployment, region)
        # In this order: a machine that goes in between is on one of the two lists.
        back = await taken_back(self._google, deployment, region, self._clock.now() - REMEMBERED)
        for machine in there:
            if machine.state is MachineState.ENDED:
                # If it is refused, the next list tries again.
                with suppress(ProviderError):
                    await self._delete(machine.place.zone, machine.cloud_id)
        names = {machine.cloud_id for machine in there}
        gone = [machine for name, machine in back.items() if name not in names]
        return [*(with_reason(machine, back) for machine in there), *gone]

    async def check(self) -> CheckReport:
        """Credentials, project, permissions, regions, quotas, image, network, price list."""
        return await check_all(self._google)

    async def close(self) -> None:
        """Waits for calls that are under way, then lets go of everything."""
        await self._google.close()
