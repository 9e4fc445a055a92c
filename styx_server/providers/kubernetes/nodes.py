"""What nodes have to offer: sizes carved from what is free on them. Documents in, values out.

Pods of Styx do not count as taken: their room comes back, and a catalog that forgot a size while it is in use could not
offer it again. That it is not to be had just now is what a refusal says. Next: `machine_type.py`, the names.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from styx_server.core.machines.offer import CatalogEntry, MachineSize, Place
from styx_server.providers.kubernetes.machine_type import (
    GIB,
    UNLABELLED,
    MachineType,
    gpu_name,
    usual_gpu_memory,
)
from styx_server.providers.kubernetes.manifest import ARCH, ARCHES, MANAGED_BY, MANAGER, tolerations_for
from styx_server.providers.kubernetes.pods import PROVIDER
from styx_server.providers.kubernetes.settings import KubernetesSettings, Toleration

NODE_PRICE: Final = "styx-dollars-per-hour"
"""Annotation of a node: what all of it costs, for example 0.42."""

_GIB_PER_CPU: Final = (2, 4, 8)
_UNITS: Final = {
    "": Decimal(1),
    "m": Decimal("0.001"),
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", start=1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", start=1)},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Processor time in thousandths of a core, memory, accelerators."""

    cpus_milli: int = 0
    memory_bytes: int = 0
    gpus: int = 0

    def less(self, taken: Room) -> Room:
        """What is left when some of it is taken."""
        return Room(
            cpus_milli=self.cpus_milli - taken.cpus_milli,
            memory_bytes=self.memory_bytes - taken.memory_bytes,
            gpus=self.gpus - taken.gpus,
        )

    def and_(self, other: Room) -> Room:
        """Both together."""
        return self.less(Room(cpus_milli=-other.cpus_milli, memory_bytes=-other.memory_bytes, gpus=-other.gpus))


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node that pods of Styx may use."""

    name: str
    arch: str
    spot: bool
    whole: Room
    free: Room
    gpu_product: str
    gpu_memory_bytes: int
    price_micros: int | None


def read_nodes(
    nodes: Iterable[Mapping[str, Any]], pods: Iterable[Mapping[str, Any]], settings: KubernetesSettings
) -> list[Node]:
    """The nodes that can be used, and what others leave of them."""
    taken: dict[str, Room] = defaultdict(Room)
    for pod in pods:
        if _counts(pod):
            name = pod["spec"]["nodeName"]
            taken[name] = taken[name].and_(_asked(pod["spec"], settings))
    found = (_node(node, taken[node["metadata"]["name"]], settings) for node in nodes)
    return [node for node in found if node is not None]


def entries_of(nodes: Sequence[Node], region: str, settings: KubernetesSettings, now: datetime) -> list[CatalogEntry]:
    """What can be rented; the lowest price where nodes differ."""
    prices: dict[MachineType, dict[bool, int]] = defaultdict(dict)
    gpu_memory: dict[str, int] = {}
    for node in nodes:
        gpu_memory.setdefault(node.gpu_product, node.gpu_memory_bytes)
        for kind in set(_carve(node, settings)):
            price = _price(kind, node, settings)
            prices[kind][node.spot] = min(price, prices[kind].get(node.spot, price))
    return [
        CatalogEntry(
            place=Place(provider=PROVIDER, region=region),
            machine_type=str(kind),
            size=_size(kind, gpu_memory.get(kind.gpu_product, 0)),
            price_micros=by_spot.get(False),
            spot_price_micros=by_spot.get(True),
            estimate=True,
            fetch_time=now,
        )
        for kind, by_spot in sorted(prices.items(), key=lambda item: (item[0].gpu_count, item[0].cpus, str(item[0])))
    ]


def quantity(text: str | float) -> Decimal:
    """A number as Kubernetes writes it: `7910m`, `32Gi`, `1e3`.

    Raises:
        ValueError: it is none.
    """
    written = str(text).strip()
    digits = written.rstrip("mkMGTPEKi") if not written[-1:].isdigit() else written
    unit = written[len(digits) :]
    try:
        return Decimal(digits) * _UNITS[unit]
    except (InvalidOperation, KeyError):
        raise ValueError(f"{text!r} is not a quantity such as 500m or 32Gi") from None


def _size(kind: MachineType, gpu_memory_bytes: int) -> MachineSize:
    return MachineSize(
        cpus_milli=kind.cpus * 1000,
        memory_bytes=kind.memory_gib * GIB,
        gpu_name=gpu_name(kind.gpu_product) if kind.gpu_count else "",
        gpu_count=kind.gpu_count,
        gpu_memory_bytes=gpu_memory_bytes if kind.gpu_count else 0,
        arch=kind.arch,
    )


def _carve(node: Node, settings: KubernetesSettings) -> Iterator[MachineType]:
    """Sizes that fit on a node: powers of two, and all of it. Nodes with accelerators are not given away without."""
    cpus = node.free.cpus_milli // 1000
    gib = (node.free.memory_bytes - settings.agent_memory_bytes) // GIB
    if cpus < 1 or gib < 1:
        return
    if node.whole.gpus:
        yield from _carve_gpus(node, settings)
        return
    yield MachineType(cpus=cpus, memory_gib=gib, arch=node.arch)
    for count in _steps(cpus):
        for each in _GIB_PER_CPU:
            if count * each <= gib:
                yield MachineType(cpus=count, memory_gib=count * each, arch=node.arch)


def _carve_gpus(node: Node, settings: KubernetesSettings) -> Iterator[MachineType]:
    """Each accelerator with its share of the rest."""
    for count in _steps(node.free.gpus):
        cpus = node.free.cpus_milli * count // node.free.gpus // 1000
        gib = (node.free.memory_bytes * count // node.free.gpus - settings.agent_memory_bytes) // GIB
        if cpus > 0 and gib > 0:
            yield MachineType(cpus=cpus, memory_gib=gib, arch=node.arch, gpu_product=node.gpu_product, gpu_count=count)


def _steps(most: int) -> Iterator[int]:
    step = 1
    while step <= most:
        yield step
        step *= 2
    if most > 0 and most & (most - 1):
        yield most


def _price(kind: MachineType, node: Node, settings: KubernetesSettings) -> int:
    """The part of the node's price, or what the operator says about each core, GiB and accelerator."""
    if node.price_micros is None:
        return (
            kind.cpus * settings.cpu_price_micros
            + kind.memory_gib * settings.gib_price_micros
            + kind.gpu_count * settings.gpu_price_micros
        )
    if kind.gpu_count:
        return -(-node.price_micros * kind.gpu_count // node.whole.gpus)
    by_cpus = -(-node.price_micros * kind.cpus * 1000 // node.whole.cpus_milli)
    by_memory = -(-node.price_micros * kind.memory_gib * GIB // node.whole.memory_bytes)
    return max(by_cpus, by_memory)


def _node(node: Mapping[str, Any], taken: Room, settings: KubernetesSettings) -> Node | None:
    metadata, spec = node["metadata"], node.get("spec") or {}
    labels = metadata.get("labels") or {}
    whole = _room((node.get("status") or {}).get("allocatable") or {}, settings)
    spot = any(labels.get(label) == value for label, value in settings.spot_pairs)
    arch = next((ours for ours, theirs in ARCHES.items() if labels.get(ARCH, "amd64") == theirs), "")
    tolerated = tolerations_for(settings, gpus=whole.gpus > 0, spot=spot)
    usable = (
        bool(arch)
        and _ready(node)
        and not spec.get("unschedulable")
        and labels.get("kubernetes.io/os", "linux") == "linux"
        and all(labels.get(label) == value for label, value in settings.node_selector.items())
        and all(_tolerates(tolerated, taint) for taint in spec.get("taints") or ())
    )
    if not usable:
        return None
    product = next((labels[label] for label in settings.gpu_labels if labels.get(label)), UNLABELLED)
    return Node(
        name=metadata["name"],
        arch=arch,
        spot=spot,
        whole=whole,
        free=whole.less(taken),
        gpu_product=product if whole.gpus else "",
        gpu_memory_bytes=_gpu_memory(labels, product),
        price_micros=_node_price(metadata.get("annotations") or {}),
    )


def _ready(node: Mapping[str, Any]) -> bool:
    conditions = (node.get("status") or {}).get("conditions") or ()
    return any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)


def _tolerates(tolerations: Iterable[Toleration], taint: Mapping[str, Any]) -> bool:
    if taint.get("effect") == "PreferNoSchedule":
        return True
    return any(
        each.key == taint.get("key")
        and each.value in {"", taint.get("value") or ""}
        and each.effect in {"", taint.get("effect")}
        for each in tolerations
    )


def _gpu_memory(labels: Mapping[str, str], product: str) -> int:
    written = labels.get("nvidia.com/gpu.memory", "")
    return int(written) * 2**20 if written.isdigit() else usual_gpu_memory(gpu_name(product))


def _node_price(annotations: Mapping[str, str]) -> int | None:
    try:
        return int(quantity(annotations[NODE_PRICE]) * 1_000_000)
    except (KeyError, ValueError):
        return None


def _counts(pod: Mapping[str, Any]) -> bool:
    ours = (pod["metadata"].get("labels") or {}).get(MANAGED_BY) == MANAGER
    over = (pod.get("status") or {}).get("phase") in {"Succeeded", "Failed"}
    return bool(pod["spec"].get("nodeName")) and not ours and not over


def _asked(spec: Mapping[str, Any], settings: KubernetesSettings) -> Room:
    """What the scheduler holds for a pod: all its containers, or its largest first one, and what runs it."""
    together = Room()
    for container in spec.get("containers") or ():
        together = together.and_(_requests(container, settings))
    largest = Room()
    for container in spec.get("initContainers") or ():
        asked = _requests(container, settings)
        if container.get("restartPolicy") == "Always":
            together = together.and_(asked)
        largest = Room(
            cpus_milli=max(largest.cpus_milli, asked.cpus_milli),
            memory_bytes=max(largest.memory_bytes, asked.memory_bytes),
            gpus=max(largest.gpus, asked.gpus),
        )
    held = Room(
        cpus_milli=max(together.cpus_milli, largest.cpus_milli),
        memory_bytes=max(together.memory_bytes, largest.memory_bytes),
        gpus=max(together.gpus, largest.gpus),
    )
    return held.and_(_room(spec.get("overhead") or {}, settings))


def _requests(container: Mapping[str, Any], settings: KubernetesSettings) -> Room:
    return _room((container.get("resources") or {}).get("requests") or {}, settings)


def _room(resources: Mapping[str, Any], settings: KubernetesSettings) -> Room:
    return Room(
        cpus_milli=int(quantity(resources.get("cpu", 0)) * 1000),
        memory_bytes=int(quantity(resources.get("memory", 0))),
        gpus=int(quantity(resources.get(settings.gpu_resource, 0))),
    )
