"""Reads what is there: machines, those that Google took back, zones. Complete or an error. Next: `provider.py`."""

from __future__ import annotations

from datetime import datetime

from styx_server.core.machines.instance import CloudMachine
from styx_server.providers.gcp.calls import PAGE, Clients, Google, scoped
from styx_server.providers.gcp.machine import (
    PREEMPTED,
    PROVIDER,
    deployment_filter,
    machine_of,
    place_of,
    preempted_machine,
    time_of,
)


async def machines_of(google: Google, deployment: str, region: str) -> list[CloudMachine]:
    """Machines of a deployment in a region, those that were stopped too."""
    doing = f"listing machines in {PROVIDER}/{region}"
    return await _machines(google, doing, deployment_filter(deployment), region)


async def machines_named(google: Google, name: str, region: str) -> list[CloudMachine]:
    """Machines of a name in a region: none, or one, unless several zones were tried at the same time."""
    doing = f"looking for {name} in {PROVIDER}/{region}"
    return await _machines(google, doing, f'name = "{name}"', region)


async def _machines(google: Google, doing: str, which: str, region: str) -> list[CloudMachine]:
    def read(clients: Clients) -> list[CloudMachine]:
        from google.cloud import compute_v1

        request = compute_v1.AggregatedListInstancesRequest(project=clients.project, filter=which, max_results=PAGE)
        pager = clients.instances.aggregated_list(request, **clients.options())
        return [machine_of(each) for each in scoped(pager, "instances")]

    return [found for found in await google.ask(doing, read) if found.place.region == region]


async def taken_back(google: Google, deployment: str, region: str, since: datetime) -> dict[str, CloudMachine]:
    """Spot machines that Google took back since then, by name. Most of them exist no more."""

    def read(clients: Clients) -> list[CloudMachine]:
        from google.cloud import compute_v1

        request = compute_v1.AggregatedListGlobalOperationsRequest(
            project=clients.project, filter=f'operationType = "{PREEMPTED}"', max_results=PAGE
        )
        found = []
        for operation in scoped(clients.all_operations.aggregated_list(request, **clients.options()), "operations"):
            when = time_of(operation.end_time or operation.insert_time)
            machine = preempted_machine(operation, deployment)
            if machine is not None and (when is None or when > since):
                found.append(machine)
        return found

    found = await google.ask(f"listing spot machines that were taken back in {PROVIDER}/{region}", read)
    return {each.cloud_id: each for each in found if each.place.region == region}


async def zones_of(google: Google, region: str) -> list[str]:
    """The zones of a region that are up, always in the same order."""

    def read(clients: Clients) -> list[str]:
        from google.cloud import compute_v1

        request = compute_v1.ListZonesRequest(project=clients.project, max_results=PAGE)
        up = [each.name for each in clients.zones.list(request, **clients.options()) if each.status == "UP"]
        return sorted(name for name in up if place_of(name).region == region)

    return await google.ask(f"looking for zones in {PROVIDER}/{region}", read)
