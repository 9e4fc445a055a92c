"""What an operator says about an account at Amazon. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

DEFAULT_IMAGES: Final[Mapping[str, str]] = {
    "x86_64": "/aws/service/canonical/ubuntu/server/24.04/stable/current/amd64/hvm/ebs-gp3/ami-id",
    "arm64": "/aws/service/canonical/ubuntu/server/24.04/stable/current/arm64/hvm/ebs-gp3/ami-id",
    "x86_64-gpu": "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id",
    "arm64-gpu": "/aws/service/deeplearning/ami/arm64/base-oss-nvidia-driver-gpu-ubuntu-24.04/latest/ami-id",
}
"""Ubuntu 24.04, with NVIDIA's driver where there is something to drive. Parameters that Amazon keeps up to date."""

DEFAULT_DISK_BYTES: Final = 50 * 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsSettings:
    """One account.

    Attributes:
        regions: where machines may be rented, as `us-east-1`.
        profile: of the shared credentials file; empty: boto3's own search (environment, profile, instance role).
        subnets: where machines are put, of any region; a region without one uses its default VPC.
        security_groups: of machines, of any region; a region without one uses the default group of the VPC.
        instance_profile: name of the role that programs on the machines have; empty: none.
        images: what to boot for `x86_64`, `arm64`, `x86_64-gpu`, `arm64-gpu`: an `ami-...`, or a parameter of SSM that
            holds one. What is missing is taken from DEFAULT_IMAGES.
        machine_types: which are offered, with `*` as in `g5.*`; empty: all.
        disk_bytes: of the root disk, when the order does not say; never less than the image needs.
        endpoint_url: another address for all of Amazon's services, for tests.
        threads: how many calls are under way at a time.
        page_size: machines on a page; EC2 takes 5 to 1000.
    """

    regions: tuple[str, ...]
    profile: str = ""
    subnets: tuple[str, ...] = ()
    security_groups: tuple[str, ...] = ()
    instance_profile: str = ""
    images: Mapping[str, str] = field(default_factory=dict)
    machine_types: tuple[str, ...] = ()
    disk_bytes: int = DEFAULT_DISK_BYTES
    endpoint_url: str = ""
    threads: int = 16
    page_size: int = 1000
    connect_timeout_seconds: float = 5
    read_timeout_seconds: float = 60
