"""What a machine is to Google: its name, labels and body, and back. Pure but for Google's own message classes.

A machine's name is made from its key and its deployment, so the same order always asks for the same name, and the name
alone tells whose it was. That matters for spot machines: Google deletes them when it takes them back, labels and all,
and only an operation with the name is left. Next: `renting.py`.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Final

from styx_server.core.machines.instance import TAG_DEPLOYMENT, TAG_KEY, CloudMachine, MachineState, RentOrder
from styx_server.core.machines.offer import Place
from styx_server.core.machines.user_data import boot_script
from styx_server.providers.gcp.gpus import BY_NAME
from styx_server.providers.gcp.settings import GcpSettings

if TYPE_CHECKING:
    from google.cloud import compute_v1

PROVIDER: Final = "gcp"
PREEMPTED: Final = "compute.instances.preempted"
"""Type of the operation that Google leaves behind when it takes a machine back."""

_NAME_LIMIT: Final = 63
_MARK_LENGTH: Final = 6
_GIB: Final = 1 << 30
_LIFE_SECONDS: Final = (30, 120 * 86_400)
"""Google's own bounds for how long a machine may live."""

_TAGS_ITEM: Final = "styx-tags"
_HYPERDISK: Final = frozenset({"c4", "c4a", "c4d", "n4", "n4a", "n4d", "a4", "a4x", "g4", "h4d", "m4", "x4"})
"""Families that boot from hyperdisk only; the others take a balanced persistent disk."""
_UNMOVABLE: Final = frozenset({"h3", "h4d", "x4"})
"""Families without accelerators that cannot be moved to another host while they run."""

_STATES: Final = {
    "PENDING": MachineState.STARTING,
    "PROVISIONING": MachineState.STARTING,
    "STAGING": MachineState.STARTING,
    "RUNNING": MachineState.RUNNING,
    # The host failed; Google starts it again by itself.
    "REPAIRING": MachineState.RUNNING,
    "PENDING_STOP": MachineState.ENDING,
    "STOPPING": MachineState.ENDING,
    "SUSPENDING": MachineState.ENDING,
    "DEPROVISIONING": MachineState.ENDING,
    "STOPPED": MachineState.ENDED,
    "SUSPENDED": MachineState.ENDED,
    "TERMINATED": MachineState.ENDED,
}

# Names.


def machine_name(key: str, deployment: str) -> str:
    """The name of the machine for an order: its key where that is a good name, and a mark of the deployment."""
    name = f"{key}-{deployment_mark(deployment)}"
    if len(name) <= _NAME_LIMIT and re.fullmatch(r"[a-z][-a-z0-9]*", name):
        return name
    digest = hashlib.sha256(key.encode()).hexdigest()[:40]
    return f"styx--{digest}-{deployment_mark(deployment)}"


def deployment_mark(deployment: str) -> str:
    """What names of machines of a deployment end with."""
    return hashlib.sha256(deployment.encode()).hexdigest()[:_MARK_LENGTH]


def key_of_name(name: str, deployment: str) -> str | None:
    """The key that a name was made from; empty when it cannot be told; None: of another deployment."""
    if not name.endswith(f"-{deployment_mark(deployment)}"):
        return None
    key = name[: -_MARK_LENGTH - 1]
    return "" if key.startswith("styx--") else key


def label_value(value: str) -> str:
    """A tag as Google takes it for a label: lower case, few characters, not long. Not always what the tag was."""
    return re.sub(r"[^a-z0-9_-]", "-", value.lower())[:63]


def deployment_filter(deployment: str) -> str:
    """Picks the machines of a deployment on Google's side."""
    return f'labels.{TAG_DEPLOYMENT} = "{label_value(deployment)}"'


# To Google.


def instance_of(order: RentOrder, zone: str, settings: GcpSettings) -> compute_v1.Instance:
    """The body of the request; the same order gives the same body."""
    from google.cloud import compute_v1

    tags = {**order.tags, TAG_KEY: order.key}
    labels = {name.lower(): label_value(value) for name, value in tags.items()}
    return compute_v1.Instance(
        name=machine_name(order.key, order.tags.get(TAG_DEPLOYMENT, "")),
        machine_type=f"zones/{zone}/machineTypes/{order.offer.machine_type}",
        labels=labels,
        disks=[_boot_disk(order, zone, labels, settings)],
        network_interfaces=[_interface(order, settings)],
        metadata=_metadata(order, tags, settings),
        scheduling=_scheduling(order),
        guest_accelerators=_accelerators(order, zone),
        shielded_instance_config=compute_v1.ShieldedInstanceConfig(
            enable_vtpm=True,
            enable_integrity_monitoring=True,
            enable_secure_boot=settings.secure_boot,
        ),
        # Without one a program on the machine is nobody to Google.
        service_accounts=[
            compute_v1.ServiceAccount(
                email=settings.service_account, scopes=["https://www.googleapis.com/auth/cloud-platform"]
            )
        ]
        if settings.service_account
        else [],
        tags=compute_v1.Tags(items=list(settings.network_tags)),
    )


def image_of(order: RentOrder, settings: GcpSettings) -> str:
    """What the machine boots."""
    size = order.offer.size
    if order.image:
        return order.image
    if size.gpu_count and settings.image_gpu:
        return settings.image_gpu
    return settings.image_arm64 if size.arch == "arm64" else settings.image


def _boot_disk(
    order: RentOrder, zone: str, labels: Mapping[str, str], settings: GcpSettings
) -> compute_v1.AttachedDisk:
    from google.cloud import compute_v1

    kind = settings.disk_type or _disk_type(order.offer.machine_type)
    parameters = compute_v1.AttachedDiskInitializeParams(
        source_image=image_of(order, settings), disk_type=f"zones/{zone}/diskTypes/{kind}", labels=dict(labels)
    )
    if order.disk_bytes:
        parameters.disk_size_gb = -(-order.disk_bytes // _GIB)
    return compute_v1.AttachedDisk(boot=True, auto_delete=True, initialize_params=parameters)


def _disk_type(machine_type: str) -> str:
    hyperdisk = _family(machine_type) in _HYPERDISK or machine_type.startswith("a3-ultragpu")
    return "hyperdisk-balanced" if hyperdisk else "pd-balanced"


def _family(machine_type: str) -> str:
    return machine_type.split("-", maxsplit=1)[0]


def _interface(order: RentOrder, settings: GcpSettings) -> compute_v1.NetworkInterface:
    from google.cloud import compute_v1

    interface = compute_v1.NetworkInterface(network=f"global/networks/{settings.network}")
    if settings.subnet:
        interface.subnetwork = f"regions/{order.offer.place.region}/subnetworks/{settings.subnet}"
    if settings.external_ip:
        interface.access_configs = [compute_v1.AccessConfig(name="External NAT", type_="ONE_TO_ONE_NAT")]
    return interface


def _metadata(order: RentOrder, tags: Mapping[str, str], settings: GcpSettings) -> compute_v1.Metadata:
    from google.cloud import compute_v1

    # Labels are for filters and for people; what a label cannot hold is read back from here.
    # The keys of all people of the project have no business on machines that run tasks.
    items = {_TAGS_ITEM: json.dumps(tags, sort_keys=True), "block-project-ssh-keys": "true"}
    if order.user_data:
        item, text = _told_at_boot(order, settings)
        items[item] = text
    return compute_v1.Metadata(items=[compute_v1.Items(key=key, value=value) for key, value in items.items()])


def _told_at_boot(order: RentOrder, settings: GcpSettings) -> tuple[str, str]:
    """Under which name the image looks for what to do, and what that is. A startup script runs at every boot."""
    if not any(part in image_of(order, settings) for part in settings.script_images):
        return "user-data", order.user_data
    if order.user_data.startswith("#!"):
        return "startup-script", order.user_data
    return "startup-script", boot_script(order.boot, order.offer.size, life_seconds=order.life_seconds)


def _scheduling(order: RentOrder) -> compute_v1.Scheduling:
    from google.cloud import compute_v1

    scheduling = compute_v1.Scheduling()
    spot = order.offer.spot
    if spot:
        scheduling.provisioning_model = "SPOT"
        scheduling.automatic_restart = False
    if spot or order.offer.size.gpu_count or _family(order.offer.machine_type) in _UNMOVABLE:
        # None of these can be moved to another host while it runs.
        scheduling.on_host_maintenance = "TERMINATE"
    if order.life_seconds:
        least, most = _LIFE_SECONDS
        scheduling.max_run_duration = compute_v1.Duration(seconds=min(max(order.life_seconds, least), most))
    if spot or order.life_seconds:
        scheduling.instance_termination_action = "DELETE"
    return scheduling


def _accelerators(order: RentOrder, zone: str) -> list[compute_v1.AcceleratorConfig]:
    from google.cloud import compute_v1

    size = order.offer.size
    if not order.offer.gpus_attached or not size.gpu_count:
        return []
    gpu = BY_NAME.get(size.gpu_name.casefold())
    kind = gpu.accelerator_type if gpu else size.gpu_name.lower()
    return [
        compute_v1.AcceleratorConfig(
            accelerator_count=size.gpu_count, accelerator_type=f"zones/{zone}/acceleratorTypes/{kind}"
        )
    ]


# From Google.


def machine_of(instance: compute_v1.Instance) -> CloudMachine:
    """What Google says of a machine."""
    tags = _tags_of(instance)
    state = _STATES.get(instance.status, MachineState.STARTING)
    return CloudMachine(
        place=place_of(last_part(instance.zone)),
        cloud_id=instance.name,
        state=state,
        key=tags.get(TAG_KEY, ""),
        tags=tags,
        spot=instance.scheduling.provisioning_model == "SPOT" or bool(instance.scheduling.preemptible),
        create_time=time_of(instance.creation_timestamp),
        reason="stopped" if state is MachineState.ENDED else "",
    )


def preempted_machine(operation: compute_v1.Operation, deployment: str) -> CloudMachine | None:
    """The spot machine that an operation speaks of; None when it was not of this deployment."""
    name = last_part(operation.target_link)
    key = key_of_name(name, deployment)
    if key is None:
        return None
    return CloudMachine(
        place=place_of(last_part(operation.zone)),
        cloud_id=name,
        state=MachineState.ENDED,
        key=key,
        tags={TAG_DEPLOYMENT: deployment} | ({TAG_KEY: key} if key else {}),
        spot=True,
        reason="preempted",
    )


def _tags_of(instance: compute_v1.Instance) -> dict[str, str]:
    tags = dict(instance.labels)
    written = next((item.value for item in instance.metadata.items if item.key == _TAGS_ITEM), "")
    try:
        exact = json.loads(written) if written else {}
    except ValueError:
        exact = {}
    # Only what the label confirms: the labels are what Google filters by, and what a person may have changed.
    for name, value in exact.items() if isinstance(exact, dict) else ():
        if isinstance(value, str) and tags.get(name) == label_value(value):
            tags[name] = value
    return tags


def place_of(zone: str) -> Place:
    """The place with this zone; Google names a zone after its region."""
    return Place(provider=PROVIDER, region=zone.rpartition("-")[0], zone=zone)


def last_part(link: str) -> str:
    """The name of a thing that Google names with a URL."""
    return link.rpartition("/")[2]


def time_of(text: str) -> datetime | None:
    """A point in time as Google writes it."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def with_reason(machine: CloudMachine, taken_back: Mapping[str, CloudMachine]) -> CloudMachine:
    """The same, and that Google took it back, if it did."""
    if machine.cloud_id in taken_back and machine.state >= MachineState.ENDING:
        return replace(machine, reason="preempted")
    return machine
