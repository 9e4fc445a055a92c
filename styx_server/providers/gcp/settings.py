"""What an operator says about Google Cloud. Values only."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

UBUNTU: Final = "projects/ubuntu-os-cloud/global/images/family/ubuntu-2404-lts-amd64"
UBUNTU_ARM: Final = "projects/ubuntu-os-cloud/global/images/family/ubuntu-2404-lts-arm64"


@dataclass(frozen=True, slots=True, kw_only=True)
class GcpSettings:
    """Where and how machines are rented.

    Attributes:
        project: empty: the one that the credentials name.
        regions: only these are offered; empty: all, which makes a refresh of the catalog long.
        network: name of the VPC network in the project.
        subnet: name of its subnet, the same in every region; empty: the network makes subnets by itself.
        external_ip: whether machines get a public address; without one they need Cloud NAT to reach the servers.
        network_tags: for firewall rules of one's own. Styx needs none: agents only dial out.
        image: what machines boot, as `projects/P/global/images/family/F` or `projects/P/global/images/I`.
        image_arm64: the same for types with ARM processors.
        image_gpu: the same for types with accelerators; empty: `image`, which brings no driver.
        script_images: parts of names of images that have no cloud-init, such as Google's own of Debian; their guest
            agent runs the boot script instead.
        service_account: e-mail of the identity that programs on the machine have; empty: none.
        secure_boot: whether only signed kernels and drivers are loaded.
        disk_type: of the boot disk; empty: what suits the machine type.
        api_endpoint: of Compute Engine; empty: Google's own.
        billing_endpoint: of the price list; empty: Google's own.
        resources_endpoint: of the Resource Manager, which knows permissions; empty: Google's own.
        call_seconds: how long one HTTP call may take.
        rent_seconds: how long Google may think about an order before its fate is called unknown.
        poll_seconds: between two looks at an order under way.
        threads: how many calls may be under way at once.
    """

    project: str = ""
    regions: tuple[str, ...] = ()
    network: str = "default"
    subnet: str = ""
    external_ip: bool = True
    network_tags: tuple[str, ...] = ()
    image: str = UBUNTU
    image_arm64: str = UBUNTU_ARM
    image_gpu: str = ""
    script_images: tuple[str, ...] = ("debian", "deeplearning")
    service_account: str = ""
    secure_boot: bool = False
    disk_type: str = ""
    api_endpoint: str = ""
    billing_endpoint: str = ""
    resources_endpoint: str = ""
    call_seconds: float = 30.0
    rent_seconds: float = 100.0
    poll_seconds: float = 1.0
    threads: int = 8

    def in_project(self, project: str) -> GcpSettings:
        """The same with the project that the credentials name, when none was said."""
        return self if self.project else replace(self, project=project)
