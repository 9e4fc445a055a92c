"""Labels that Styx itself gives to the agents of rented machines, which nobody else may set.

Tasks are kept to what they asked for by these labels, so a machine must not be able to lie about them: they come from
the join token, and agents and people may not use the prefix.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

PREFIX: Final = "styx/"
INSTANCE: Final = "styx/instance"
PROVIDER: Final = "styx/provider"
REGION: Final = "styx/region"
ZONE: Final = "styx/zone"
MACHINE_TYPE: Final = "styx/machine-type"
SPOT: Final = "styx/spot"
"""`true` or `false`."""
ARCH: Final = "styx/arch"
GPU_MEMORY: Final = "styx/gpu-memory"
"""Bytes of each accelerator, as they were sold: a driver finds a little less, and an agent that is told none."""

RULE: Final = f"starts with {PREFIX}, which is kept for labels that Styx sets by itself; take another prefix"
INSTEAD: Final = f"starts with {PREFIX}, which tasks do not ask for; say what you want of the machine in `machine`"


def is_reserved(key: str) -> bool:
    """Whether only Styx may set this label."""
    return key.startswith(PREFIX)


def without_reserved(labels: Mapping[str, str]) -> dict[str, str]:
    """Labels that an agent may give itself."""
    return {key: value for key, value in labels.items() if not is_reserved(key)}
