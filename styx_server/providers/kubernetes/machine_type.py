"""Names of sizes: `4x16`, `8x32-NVIDIA-L4x1`. A cluster has nodes, not types, so the size is the type.

The product stands in the name as the nodes' label has it, so that a pod can ask for just these nodes. Next: `nodes.py`,
which finds sizes, and `manifest.py`, which asks for them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

GIB: Final = 2**30
UNLABELLED: Final = "gpu"
"""The product, where no label of the node names it. People who do not care which can have it."""

_NAME: Final = re.compile(r"(\d+)x(\d+)(-arm64)?(?:-(.+)x(\d+))?")
# What stands around the name of a model and does not change what it can do for a task.
_DECORATION: Final = re.compile(r"NVIDIA|TESLA|GEFORCE|AMD|INSTINCT|SXM\d?|PCIE?|HBM\dE?|MEGA|NVL")
_MEMORY: Final = re.compile(r"\d+GB")
# Sold in two sizes under one name: the larger carries it.
_TWO_SIZES: Final = {"A100": "80GB", "V100": "32GB"}
_GIB_OF: Final = {
    "A10": 24,
    "A100": 40,
    "A100-80GB": 80,
    "A10G": 24,
    "B200": 180,
    "H100": 80,
    "H200": 141,
    "L4": 24,
    "L40": 48,
    "L40S": 48,
    "P100": 16,
    "P4": 8,
    "T4": 16,
    "V100": 16,
    "V100-32GB": 32,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineType:
    """A size, and which nodes have it."""

    cpus: int
    memory_gib: int
    arch: str = "x86_64"
    gpu_product: str = ""
    gpu_count: int = 0

    def __str__(self) -> str:
        """The name, from which `read_type` makes the same again."""
        gpus = f"-{self.gpu_product}x{self.gpu_count}" if self.gpu_count else ""
        return f"{self.cpus}x{self.memory_gib}{'-arm64' if self.arch == 'arm64' else ''}{gpus}"


def read_type(name: str) -> MachineType | None:
    """What a name means; None: it is not one of ours."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    cpus, memory_gib, arm, product, count = match.groups()
    return MachineType(
        cpus=int(cpus),
        memory_gib=int(memory_gib),
        arch="arm64" if arm else "x86_64",
        gpu_product=product or "",
        gpu_count=int(count or 0),
    )


def gpu_name(product: str) -> str:
    """What people call a product: `NVIDIA-A100-SXM4-80GB` and `nvidia-a100-80gb` are `A100-80GB`."""
    words = [word for word in re.split(r"[-_ ]+", product.upper()) if not _DECORATION.fullmatch(word)]
    kept = [word for word in words if not _MEMORY.fullmatch(word)]
    if kept and _TWO_SIZES.get(kept[0], "?") in words:
        kept.insert(1, _TWO_SIZES[kept[0]])
    return "-".join(kept) or product


def usual_gpu_memory(name: str) -> int:
    """Bytes that a model has, for nodes that do not say; 0: not known."""
    return _GIB_OF.get(name, 0) * GIB
