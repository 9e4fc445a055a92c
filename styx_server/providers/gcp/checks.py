"""Whether Google Cloud can be used: who one is, what one may do, what there is; with what to do where it is not good.

Asks, and changes nothing. Each finding stands for itself; a project without the API shows that and not ten errors more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from styx_server.core.machines.refusal import RefusalKind
from styx_server.providers.gcp.calls import Clients, Google
from styx_server.providers.gcp.machine import PROVIDER
from styx_server.providers.ports import CheckReport, Finding, ProviderError

PERMISSIONS: Final = (
    "compute.acceleratorTypes.list",
    "compute.disks.create",
    "compute.disks.setLabels",
    "compute.globalOperations.list",
    "compute.instances.create",
    "compute.instances.delete",
    "compute.instances.get",
    "compute.instances.list",
    "compute.instances.setLabels",
    "compute.instances.setMetadata",
    "compute.machineTypes.list",
    "compute.projects.get",
    "compute.regions.get",
    "compute.subnetworks.use",
    "compute.zoneOperations.get",
    "compute.zones.list",
)
"""What is needed on the project, whatever the settings; all in the role roles/compute.instanceAdmin.v1, but for use."""

_EXTERNAL: Final = "compute.subnetworks.useExternalIp"
_QUOTAS: Final = ("CPUS", "INSTANCES", "IN_USE_ADDRESSES", "SSD_TOTAL_GB")


async def check_all(google: Google) -> CheckReport:
    """All findings, in the order in which a person would mend them."""
    try:
        identity = await google.ask("looking for credentials", _identity)
    except ProviderError as error:
        return CheckReport(provider=PROVIDER, identity="", findings=(_refused(error),))
    credentials = Finding(good=True, what=f"credentials: {identity}")
    project = await _finding(google, "the project", _project)
    if not project.good:
        return CheckReport(provider=PROVIDER, identity=identity, findings=(credentials, project))
    rest = await asyncio.gather(
        _finding(google, "permissions", _permissions),
        *(_finding(google, f"region {region}", _quotas_of(region)) for region in google.settings.regions),
        _finding(google, "the image", _image),
        _finding(google, "the network", _network),
        _finding(google, "the price list", _prices),
    )
    return CheckReport(provider=PROVIDER, identity=identity, findings=(credentials, project, *rest))


async def _finding(google: Google, what: str, look: Callable[[Clients], Finding]) -> Finding:
    try:
        return await google.ask(f"checking {what}", look)
    except ProviderError as error:
        return _refused(error)


def _refused(error: ProviderError) -> Finding:
    """A refusal's sentence has what is wrong, then what to do."""
    what, _, remedy = error.message.partition(". ")
    return Finding(good=False, what=what, remedy=remedy)


def _identity(clients: Clients) -> str:
    if not clients.project:
        from styx_server.providers.gcp.calls import RefusedError
        from styx_server.providers.gcp.errors import Refused

        raise RefusedError(Refused(code="CONSUMER_INVALID", message="the credentials name no project"))
    return f"{_who(clients)} in project {clients.project}"


def _project(clients: Clients) -> Finding:
    found = clients.compute(clients.project)
    return Finding(good=True, what=f"project {found.get('name', clients.project)}: Compute Engine is switched on")


def _permissions(clients: Clients) -> Finding:
    settings = clients.settings
    needed = {*PERMISSIONS, *([_EXTERNAL] if settings.external_ip else [])}
    if settings.service_account:
        needed.add("compute.instances.setServiceAccount")
    url = f"{clients.resources_endpoint}/v1/projects/{clients.project}:testIamPermissions"
    try:
        held = clients.json("POST", url, json={"permissions": sorted(needed)}).get("permissions", [])
    except Exception as error:
        from styx_server.providers.gcp.errors import refused_by, understand

        refused = refused_by(error)
        if refused is None or understand(refused).kind is not RefusalKind.PERMISSION:
            raise
        enable = f"gcloud services enable cloudresourcemanager.googleapis.com --project {clients.project}"
        return Finding(good=True, what=f"permissions were not looked at; `{enable}` lets them be")
    missing = sorted(needed - set(held))
    if not missing:
        return Finding(good=True, what=f"all {len(needed)} permissions that are needed")
    return Finding(
        good=False,
        what=f"missing permissions: {', '.join(missing)}",
        remedy=f"gcloud projects add-iam-policy-binding {clients.project} --member={_member(clients)} "
        "--role=roles/compute.instanceAdmin.v1",
    )


def _who(clients: Clients) -> str:
    """As exactly as the credentials themselves know without a call."""
    email = getattr(clients.credentials, "service_account_email", "")
    if email == "default":
        return "the service account of this machine"
    return email or getattr(clients.credentials, "account", "") or type(clients.credentials).__name__


def _member(clients: Clients) -> str:
    email = getattr(clients.credentials, "service_account_email", "")
    return f"serviceAccount:{email}" if "@" in email else "<identity>"


def _quotas_of(region: str) -> Callable[[Clients], Finding]:
    def look(clients: Clients) -> Finding:
        quotas: list[dict[str, Any]] = clients.compute(f"{clients.project}/regions/{region}").get("quotas", [])
        limits = {quota["metric"]: (float(quota["usage"]), float(quota["limit"])) for quota in quotas}
        shown = [name for name in _QUOTAS if name in limits]
        words = ", ".join(f"{name} {limits[name][0]:g} of {limits[name][1]:g}" for name in shown)
        full = [name for name in shown if limits[name][0] >= limits[name][1]]
        return Finding(
            good=not full,
            what=f"region {region}: {words or 'no limits are told'}",
            remedy=f"ask for more {', '.join(full)} at "
            f"https://console.cloud.google.com/iam-admin/quotas?project={clients.project}"
            if full
            else "",
        )

    return look


def _image(clients: Clients) -> Finding:
    image = clients.settings.image.removeprefix("projects/")
    found = clients.compute(image)
    words = f"image {found.get('name', image)}"
    if not clients.settings.image_gpu:
        words += "; machines with accelerators boot it too, and it brings no driver (set `image_gpu`)"
    return Finding(good=True, what=words)


def _network(clients: Clients) -> Finding:
    settings = clients.settings
    clients.compute(f"{clients.project}/global/networks/{settings.network}")
    if not settings.subnet:
        return Finding(good=True, what=f"network {settings.network}")
    for region in settings.regions:
        clients.compute(f"{clients.project}/regions/{region}/subnetworks/{settings.subnet}")
    return Finding(good=True, what=f"network {settings.network} with subnet {settings.subnet}")


def _prices(clients: Clients) -> Finding:
    url = f"{clients.billing_endpoint}/v1/services"
    try:
        clients.json("GET", url, params={"pageSize": "1"})
    except Exception as error:
        from styx_server.providers.gcp.errors import refused_by, understand

        refused = refused_by(error)
        if refused is None or understand(refused).kind is not RefusalKind.PERMISSION:
            raise
        return Finding(
            good=True,
            what="the price list cannot be read; prices stay those that came with Styx, which are estimates. "
            f"`gcloud services enable cloudbilling.googleapis.com --project {clients.project}` opens it",
        )
    return Finding(good=True, what="the price list can be read")
