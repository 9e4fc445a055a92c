"""Makes, ends and lists machines of EC2. Blocks; called in threads. Next: `request.py`, in which words.

Every call is made once: whether it is made again is decided by whoever keeps the row of the machine.
"""

from __future__ import annotations

from typing import Any, Final

from styx_server.core.machines.instance import TAG_DEPLOYMENT, TAG_KEY, CloudMachine, MachineState, RentOrder
from styx_server.providers.aws.account import Account
from styx_server.providers.aws.client import Clients
from styx_server.providers.aws.errors import code_of, not_yet_listed, refusal
from styx_server.providers.aws.request import (
    check_image,
    check_order,
    choose_subnet,
    machine_of,
    run_request,
    with_lost_spots,
)
from styx_server.providers.aws.settings import AwsSettings

_USED_KEY: Final = frozenset({"IdempotentParameterMismatch", "IdempotentInstanceTerminated"})
_DENIED: Final = "UnauthorizedOperation"
_NEVER_WAS: Final = frozenset({"InvalidInstanceID.NotFound", "InvalidInstanceID.Malformed"})


def rent(clients: Clients, account: Account, settings: AwsSettings, order: RentOrder) -> CloudMachine:
    """Runs one instance, or finds the one of this key."""
    check_order(order)
    region = order.offer.place.region
    name = order.image or account.image_name(order.offer.size)
    image = account.image(region, name)
    check_image(order, image)
    subnet_id = choose_subnet(order, account.own_subnets(region))
    asked = run_request(order, image, subnet_id, account.groups(region), settings)
    try:
        answer = clients.get("ec2", region).run_instances(**asked)
    except Exception as error:
        code = code_of(error)
        if code in _USED_KEY:
            return _rented_before(clients, settings, order, error)
        if code.startswith("InvalidAMIID"):
            account.forget_image(region, name)
        raise
    return machine_of(answer["Instances"][0], region)


def _rented_before(clients: Clients, settings: AwsSettings, order: RentOrder, error: Exception) -> CloudMachine:
    """The machine that this key made, though EC2 will not say so by itself.

    The image or the configuration changed between two calls, or the machine has ended since.
    """
    found = _tagged(clients, settings, order.offer.place.region, TAG_KEY, order.key)
    if found:
        return min(found, key=lambda machine: machine.state is MachineState.ENDED)
    if code_of(error) == "IdempotentInstanceTerminated":
        raise refusal(error, str(order.offer))
    raise not_yet_listed(str(order.offer), order.key)


def release(clients: Clients, region: str, cloud_id: str) -> None:
    """Terminates an instance. One that EC2 does not know is gone."""
    ec2 = clients.get("ec2", region)
    try:
        ec2.terminate_instances(InstanceIds=[cloud_id])
    except Exception as error:
        code = code_of(error)
        # A right that hangs on a machine's tag ends with the tag, which EC2 takes off some time after the machine's
        # end.
        if code in _NEVER_WAS or (code == _DENIED and _is_over(ec2, cloud_id)):
            return
        raise


def _is_over(ec2: Any, cloud_id: str) -> bool:
    """Whether a machine is ending or gone."""
    try:
        answer = ec2.describe_instances(InstanceIds=[cloud_id])
    except Exception as error:
        if code_of(error) in _NEVER_WAS:
            return True
        raise
    states = {each["State"]["Name"] for some in answer["Reservations"] for each in some["Instances"]}
    return states <= {"shutting-down", "terminated"}


def list_machines(clients: Clients, settings: AwsSettings, deployment: str, region: str) -> list[CloudMachine]:
    """All of a deployment, from the list of machines and from that of spot requests."""
    machines = _tagged(clients, settings, region, TAG_DEPLOYMENT, deployment)
    pages = (
        clients.get("ec2", region)
        .get_paginator("describe_spot_instance_requests")
        .paginate(Filters=[_tag_filter(TAG_DEPLOYMENT, deployment)], MaxResults=settings.page_size)
    )
    requests = [each for page in pages for each in page["SpotInstanceRequests"]]
    return with_lost_spots(machines, requests, region)


def _tagged(clients: Clients, settings: AwsSettings, region: str, tag: str, value: str) -> list[CloudMachine]:
    """Every machine with a tag, in whatever state."""
    pages = (
        clients.get("ec2", region)
        .get_paginator("describe_instances")
        .paginate(Filters=[_tag_filter(tag, value)], MaxResults=settings.page_size)
    )
    return [
        machine_of(instance, region)
        for page in pages
        for reservation in page["Reservations"]
        for instance in reservation["Instances"]
    ]


def _tag_filter(tag: str, value: str) -> dict[str, Any]:
    return {"Name": f"tag:{tag}", "Values": [value]}
