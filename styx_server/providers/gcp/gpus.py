"""Accelerators of Google Cloud: what it calls them, and what people call them. Values only.

Names and memory: https://cloud.google.com/compute/docs/gpus. Names of SKUs are from the public price list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

GIB: Final = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One kind of accelerator.

    Attributes:
        accelerator_type: as Google calls it in requests.
        name: as people and the agents on the machines call it.
        memory_bytes: of each.
        skus: as it is called in the price list.
    """

    accelerator_type: str
    name: str
    memory_bytes: int
    skus: tuple[str, ...]


GPUS: Final[tuple[Gpu, ...]] = (
    Gpu(accelerator_type="nvidia-tesla-p4", name="P4", memory_bytes=8 * GIB, skus=("P4",)),
    Gpu(accelerator_type="nvidia-tesla-t4", name="T4", memory_bytes=16 * GIB, skus=("T4",)),
    Gpu(accelerator_type="nvidia-tesla-v100", name="V100", memory_bytes=16 * GIB, skus=("V100",)),
    Gpu(accelerator_type="nvidia-tesla-p100", name="P100", memory_bytes=16 * GIB, skus=("P100",)),
    Gpu(accelerator_type="nvidia-l4", name="L4", memory_bytes=24 * GIB, skus=("L4",)),
    Gpu(accelerator_type="nvidia-tesla-a100", name="A100", memory_bytes=40 * GIB, skus=("A100",)),
    Gpu(accelerator_type="nvidia-a100-80gb", name="A100-80GB", memory_bytes=80 * GIB, skus=("A100 80GB",)),
    Gpu(accelerator_type="nvidia-h100-80gb", name="H100", memory_bytes=80 * GIB, skus=("H100 80GB",)),
    Gpu(
        accelerator_type="nvidia-h100-mega-80gb",
        name="H100-MEGA",
        memory_bytes=80 * GIB,
        skus=("H100 80GB Mega", "H100 Mega 80GB", "H100 80GB Plus"),
    ),
    Gpu(accelerator_type="nvidia-h200-141gb", name="H200", memory_bytes=141 * GIB, skus=("H200 141GB",)),
    Gpu(accelerator_type="nvidia-b200", name="B200", memory_bytes=180 * GIB, skus=("B200",)),
    Gpu(accelerator_type="nvidia-rtx-pro-6000", name="RTX-PRO-6000", memory_bytes=96 * GIB, skus=("RTX PRO 6000",)),
)

BY_TYPE: Final = {gpu.accelerator_type: gpu for gpu in GPUS}
BY_NAME: Final = {gpu.name.casefold(): gpu for gpu in GPUS}
BY_SKU: Final = {sku.casefold(): gpu for gpu in GPUS for sku in gpu.skus}

ATTACHED: Final[dict[str, dict[int, int]]] = {
    "nvidia-tesla-p4": {1: 24, 2: 48, 4: 96},
    "nvidia-tesla-t4": {1: 48, 2: 48, 4: 96},
    "nvidia-tesla-v100": {1: 12, 2: 24, 4: 48, 8: 96},
    "nvidia-tesla-p100": {1: 16, 2: 32, 4: 64},
}
"""Kinds that are added to a machine of the family N1: how many may be, and with at most how many cores each."""
