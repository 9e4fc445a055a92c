"""What an account has in a region and a rent needs: images, subnets, security groups. Blocks; called in threads.

Everything is asked for once and kept: images for a day, because Amazon's parameters move to newer ones, the rest for as
long as the server runs, because it comes from the configuration. May not make anything. Next: `request.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from styx_server.core.machines.offer import MachineSize
from styx_server.core.machines.refusal import RefusalKind
from styx_server.providers.aws.client import Clients
from styx_server.providers.aws.request import Image, Subnet
from styx_server.providers.aws.settings import DEFAULT_IMAGES, AwsSettings
from styx_server.providers.ports import ProviderError

IMAGE_SECONDS: Final = 86_400
"""How long the answer to "which image" holds. A repeated order should name the same image as its first call did."""

NOT_NVIDIA: Final = ("Trainium", "Inferentia", "Radeon", "Gaudi", "Qualcomm")
"""Accelerators for which NVIDIA's driver is of no use: their machines boot the plain image."""


class Account:
    """What there is for machines in each region."""

    def __init__(self, settings: AwsSettings, clients: Clients, monotonic: Callable[[], float]) -> None:
        self._settings = settings
        self._clients = clients
        self._monotonic = monotonic
        # Two threads may look up the same at once; both find the same.
        self._images: dict[tuple[str, str], tuple[float, Image]] = {}
        self._subnets: dict[str, list[Subnet]] = {}
        self._groups: dict[str, list[str]] = {}

    def image_name(self, size: MachineSize) -> str:
        """What a machine of this size boots when nobody says otherwise: an `ami-...`, or a parameter of SSM."""
        nvidia = size.gpu_count > 0 and not size.gpu_name.startswith(NOT_NVIDIA)
        name = size.arch + ("-gpu" if nvidia else "")
        return self._settings.images.get(name) or DEFAULT_IMAGES[name]

    def image(self, region: str, name: str) -> Image:
        """The image itself.

        Raises:
            ProviderError: BAD_IMAGE, there is none of this name.
        """
        time, found = self._images.get((region, name), (0.0, None))
        if found is None or self._monotonic() > time + IMAGE_SECONDS:
            found = self._find_image(region, name)
            self._images[region, name] = (self._monotonic(), found)
        return found

    def forget_image(self, region: str, name: str) -> None:
        """Looks the image up again the next time: EC2 said that it is not there."""
        self._images.pop((region, name), None)

    def own_subnets(self, region: str) -> list[Subnet]:
        """Those of the configuration that are in this region."""
        if self._settings.subnets and region not in self._subnets:
            self._subnets[region] = self._find_subnets(region, "subnet-id", list(self._settings.subnets))
        return self._subnets.get(region, [])

    def default_subnets(self, region: str) -> list[Subnet]:
        """Those of the default VPC. Not kept: somebody may be told to make one."""
        return self._find_subnets(region, "default-for-az", ["true"])

    def groups(self, region: str) -> list[str]:
        """The security groups of the configuration that are in this region."""
        if self._settings.security_groups and region not in self._groups:
            answer = self._clients.get("ec2", region).describe_security_groups(
                Filters=[{"Name": "group-id", "Values": list(self._settings.security_groups)}]
            )
            self._groups[region] = [group["GroupId"] for group in answer["SecurityGroups"]]
        return self._groups.get(region, [])

    def _find_subnets(self, region: str, filter_name: str, values: list[str]) -> list[Subnet]:
        # By filter and not by id: ids of other regions would be an error.
        answer = self._clients.get("ec2", region).describe_subnets(Filters=[{"Name": filter_name, "Values": values}])
        return [
            Subnet(subnet_id=each["SubnetId"], zone=each["AvailabilityZone"], default=bool(each.get("DefaultForAz")))
            for each in answer["Subnets"]
        ]

    def _find_image(self, region: str, name: str) -> Image:
        ami = name
        if name.startswith("/"):
            ami = self._clients.get("ssm", region).get_parameter(Name=name)["Parameter"]["Value"]
        if not ami.startswith("ami-"):
            raise ProviderError(
                RefusalKind.BAD_IMAGE,
                f"aws/{region}: '{name}' is not an image; write ami-... or an SSM parameter that starts with /",
                code="InvalidAMIID.Malformed",
            )
        found = self._clients.get("ec2", region).describe_images(ImageIds=[ami])["Images"]
        if not found:
            raise ProviderError(
                RefusalKind.BAD_IMAGE,
                f"aws/{region}: there is no image {ami} here, or it is not for this account; images belong to a region",
                code="InvalidAMIID.NotFound",
            )
        return _image(found[0])


def _image(found: dict[str, Any]) -> Image:
    root = found.get("RootDeviceName") or "/dev/sda1"
    sizes = [
        disk["Ebs"].get("VolumeSize", 0)
        for disk in found.get("BlockDeviceMappings", ())
        if disk.get("DeviceName") == root and "Ebs" in disk
    ]
    return Image(
        ami=found["ImageId"], arch=found.get("Architecture", "x86_64"), root_device=root, root_gib=max(sizes, default=0)
    )
