"""What EC2 is asked to make, and what is read out of its answers. Pure: values in, values out. Next: `provider.py`."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from styx_server.core.machines.instance import (
    TAG_KEY,
    CloudMachine,
    MachineState,
    RentOrder,
)
from styx_server.core.machines.offer import Place
from styx_server.core.machines.refusal import RefusalKind, Scope
from styx_server.providers.aws.settings import AwsSettings
from styx_server.providers.ports import ProviderError

PROVIDER: Final = "aws"
GIB: Final = 1024**3
MAX_USER_DATA_BYTES: Final = 16 * 1024
NAME_TAG: Final = "Name"
"""What the console shows as a machine's name. Not one of Styx's tags, and not read back."""

STATES: Final[Mapping[str, MachineState]] = {
    "pending": MachineState.STARTING,
    "running": MachineState.RUNNING,
    "shutting-down": MachineState.ENDING,
    "terminated": MachineState.ENDED,
    # Only a person or a retirement at Amazon stops a machine: those of Styx end when they shut down. It does nothing,
    # but it is there and its disk costs money, so it must not pass for one that is gone: it has to be given back.
    "stopping": MachineState.RUNNING,
    "stopped": MachineState.RUNNING,
}

REASONS: Final[Mapping[str, str]] = {
    "Server.SpotInstanceTermination": "preempted",
    "Server.SpotInstanceShutdown": "preempted",
    "Server.InsufficientInstanceCapacity": "capacity",
    "Client.VolumeLimitExceeded": "quota",
    "Client.InstanceInitiatedShutdown": "shut_down",
    "Client.UserInitiatedShutdown": "released",
}
"""From EC2's reason for a state; others are shown as they are."""

TAKEN_BACK: Final = frozenset(
    {
        "instance-terminated-by-price",
        "instance-terminated-no-capacity",
        "instance-terminated-capacity-oversubscribed",
        "instance-terminated-launch-group-constraint",
        "instance-terminated-by-service",
        "instance-terminated-by-experiment",
    }
)
"""Statuses of a spot request whose machine its owner took back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What a machine boots: Amazon's id of it, and what must be known to give it a larger disk."""

    ami: str
    arch: str
    root_device: str
    root_gib: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Subnet:
    """A piece of a network. `default`: of the default VPC, where EC2 finds it by its zone."""

    subnet_id: str
    zone: str
    default: bool


def check_order(order: RentOrder) -> None:
    """Refuses what EC2 would refuse too, in clearer words.

    Raises:
        ProviderError: the first-boot script is too long.
    """
    size = len(order.user_data.encode())
    if size > MAX_USER_DATA_BYTES:
        raise ProviderError(
            RefusalKind.BAD_REQUEST,
            f"{order.offer}: the first-boot script has {size} bytes, and EC2 takes {MAX_USER_DATA_BYTES}; "
            "shorten what is configured to run at boot",
            code="UserDataTooLarge",
        )


def check_image(order: RentOrder, image: Image) -> None:
    """Raises ProviderError for an image of another architecture, which EC2 would only call a bad value."""
    if image.arch != order.offer.size.arch:
        raise ProviderError(
            RefusalKind.BAD_IMAGE,
            f"{order.offer}: the image {image.ami} is for {image.arch}, the machine is {order.offer.size.arch}; "
            "name an image for it in aws.images or in the pool",
            code="ArchitectureMismatch",
            scope=Scope.TYPE,
        )


def choose_subnet(order: RentOrder, subnets: Sequence[Subnet]) -> str:
    """Which of the configured subnets of the region the machine is put into; empty: EC2 chooses, in the default VPC.

    The same order always gets the same answer: EC2 remembers a key by zone, so a repeat in another zone would be a
    second machine.
    """
    if not subnets:
        return ""
    zone = order.offer.place.zone
    fitting = sorted(subnet.subnet_id for subnet in subnets if zone in {"", subnet.zone})
    if not fitting:
        raise ProviderError(
            RefusalKind.BAD_REQUEST,
            f"{order.offer}: none of the subnets in aws.subnets is in this zone; add one, or take the zone out of use",
            code="NoSubnetInZone",
            scope=Scope.ZONE,
        )
    return fitting[zlib.crc32(order.key.encode()) % len(fitting)]


def run_request(
    order: RentOrder, image: Image, subnet_id: str, groups: Sequence[str], settings: AwsSettings
) -> dict[str, Any]:
    """The arguments of RunInstances. Nothing in it but the order, the configuration and the image decides."""
    wanted = -(-(order.disk_bytes or settings.disk_bytes) // GIB)
    disk = {
        "VolumeSize": max(wanted, image.root_gib),
        "VolumeType": "gp3",
        "Encrypted": True,
        "DeleteOnTermination": True,
    }
    request: dict[str, Any] = {
        "ClientToken": order.key,
        "MinCount": 1,
        "MaxCount": 1,
        "ImageId": image.ami,
        "InstanceType": order.offer.machine_type,
        "UserData": order.user_data,
        # A machine that shuts itself down must not stay behind as a stopped one, whose disk costs money.
        "InstanceInitiatedShutdownBehavior": "terminate",
        "BlockDeviceMappings": [{"DeviceName": image.root_device, "Ebs": disk}],
        # The role's keys go to programs on the machine itself: not to what they can be tricked into asking for, and
        # not to containers, which are one hop farther away.
        "MetadataOptions": {"HttpTokens": "required", "HttpPutResponseHopLimit": 1, "HttpEndpoint": "enabled"},
        "TagSpecifications": _tag_specifications(order),
    }
    if subnet_id:
        request["SubnetId"] = subnet_id
    elif order.offer.place.zone:
        request["Placement"] = {"AvailabilityZone": order.offer.place.zone}
    if groups:
        request["SecurityGroupIds"] = list(groups)
    if settings.instance_profile:
        request["IamInstanceProfile"] = {"Name": settings.instance_profile}
    if order.offer.spot:
        request["InstanceMarketOptions"] = {
            "MarketType": "spot",
            "SpotOptions": {"SpotInstanceType": "one-time", "InstanceInterruptionBehavior": "terminate"},
        }
    return request


def _tag_specifications(order: RentOrder) -> list[dict[str, Any]]:
    tags = [{"Key": key, "Value": value} for key, value in sorted(({NAME_TAG: order.key} | dict(order.tags)).items())]
    kinds = ["instance", "volume", "network-interface"] + (["spot-instances-request"] if order.offer.spot else [])
    return [{"ResourceType": kind, "Tags": tags} for kind in kinds]


def machine_of(instance: Mapping[str, Any], region: str) -> CloudMachine:
    """A machine, from an entry of RunInstances or DescribeInstances."""
    tags = tags_of(instance.get("Tags", ()))
    name: str = instance["State"]["Name"]
    return CloudMachine(
        place=Place(provider=PROVIDER, region=region, zone=instance.get("Placement", {}).get("AvailabilityZone", "")),
        cloud_id=instance["InstanceId"],
        state=STATES[name],
        key=tags.get(TAG_KEY, ""),
        tags=tags,
        spot=instance.get("InstanceLifecycle") == "spot",
        create_time=instance.get("LaunchTime"),
        reason=_reason(name, instance.get("StateReason", {}).get("Code", "")),
    )


def _reason(state: str, code: str) -> str:
    if state.startswith("stop"):
        return "stopped"
    # A machine that starts has a reason too: "pending".
    return REASONS.get(code, code) if state in {"shutting-down", "terminated"} else ""


def with_lost_spots(
    machines: Sequence[CloudMachine], requests: Iterable[Mapping[str, Any]], region: str
) -> list[CloudMachine]:
    """The list of machines, with what spot requests know of those that were taken back."""
    lost = {
        each["InstanceId"]: each
        for each in requests
        if each.get("InstanceId") and each.get("Status", {}).get("Code") in TAKEN_BACK
    }
    known = [replace(each, reason="preempted") if each.cloud_id in lost else each for each in machines]
    gone = lost.keys() - {each.cloud_id for each in machines}
    return known + [_lost_spot(lost[cloud_id], region) for cloud_id in sorted(gone)]


def _lost_spot(request: Mapping[str, Any], region: str) -> CloudMachine:
    """A spot machine that was taken back, from its request: it may be off the list of machines already."""
    tags = tags_of(request.get("Tags", ()))
    return CloudMachine(
        place=Place(provider=PROVIDER, region=region, zone=request.get("LaunchedAvailabilityZone", "")),
        cloud_id=request["InstanceId"],
        state=MachineState.ENDED,
        key=tags.get(TAG_KEY, ""),
        tags=tags,
        spot=True,
        create_time=request.get("CreateTime"),
        reason="preempted",
    )


def tags_of(pairs: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Tags as a mapping, without the name for people."""
    return {pair["Key"]: pair["Value"] for pair in pairs if pair["Key"] != NAME_TAG}
