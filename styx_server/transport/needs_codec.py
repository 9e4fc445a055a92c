"""What a task needs, from messages to values; and the spec that an agent gets of a task with alternatives.

Part of `codec.py`, which has the rest of a spec.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from styx.v1 import tasks_pb2
from styx_server.core.machines.needs import NOTHING_ASKED, AskedMachine
from styx_server.core.task import Alternative, Resources
from styx_server.transport.machine_codec import spot_use


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedNeeds:
    """The part of a spec that says what is needed, decoded; the alternatives filled in with what stands beside them."""

    own: Alternative
    alternatives: tuple[Alternative, ...]
    ordered: bool
    both: bool


def asked_needs(message: tasks_pb2.Resources, path: str) -> AskedNeeds:
    """Decodes, without judging. `path`: of the message in its request.

    Raises:
        InvalidRequest: a word is not known here.
    """
    own = _alternative(message, path)
    if not message.any_of and not message.ordered:
        return AskedNeeds(own=own, alternatives=(), ordered=False, both=False)
    name = "ordered" if message.ordered else "any_of"
    return AskedNeeds(
        own=own,
        alternatives=tuple(
            _alternative(each, f"{path}.{name}[{index}]", within=message) for index, each in enumerate(_listed(message))
        ),
        ordered=bool(message.ordered),
        both=bool(message.any_of) and bool(message.ordered),
    )


def with_alternative(body: bytes, number: int) -> bytes:
    """The spec as its agent is to take it: with the needs of one alternative, and no others.

    Args:
        body: a spec with alternatives.
        number: which, from 0.
    """
    spec = tasks_pb2.TaskSpec.FromString(body)
    spec.resources.CopyFrom(_filled(_listed(spec.resources)[number], spec.resources))
    return spec.SerializeToString(deterministic=True)


def milli(cpus: float | None) -> int:
    """Cores in thousandths."""
    if cpus is None:
        return 1000
    # Judged later, by its own value; here it must only not overflow.
    return round(cpus * 1000) if 0 <= cpus <= 1e9 else 0


def _listed(message: tasks_pb2.Resources) -> Sequence[tasks_pb2.Resources]:
    return message.ordered or message.any_of


def _alternative(message: tasks_pb2.Resources, path: str, within: tasks_pb2.Resources | None = None) -> Alternative:
    need = message if within is None else _filled(message, within)
    cpus = need.cpus if need.HasField("cpus") else None
    return Alternative(
        cpus=cpus,
        resources=Resources(
            cpus_milli=milli(cpus),
            memory_bytes=need.memory_bytes,
            gpu_count=need.gpus.count,
            gpu_name=need.gpus.name,
            disk_bytes=need.disk_bytes,
            labels=tuple(sorted(need.labels.items())),
        ),
        machine=_machine(need, path),
        nested=within is not None and bool(message.any_of or message.ordered),
    )


def _machine(need: tasks_pb2.Resources, path: str) -> AskedMachine:
    if not need.HasField("machine") and not need.gpus.memory_bytes:
        return NOTHING_ASKED  # as most do; many equal ones would cost as much as the rest of a spec
    wish = need.machine
    return AskedMachine(
        infra=tuple(wish.infra),
        machine_types=tuple(wish.machine_types),
        spot=spot_use(wish.spot, f"{path}.machine.spot"),
        max_hourly_cost=wish.max_hourly_cost if wish.HasField("max_hourly_cost") else None,
        cpus_exact=wish.cpus_exact,
        memory_exact=wish.memory_exact,
        gpu_memory_bytes=need.gpus.memory_bytes,
        arch=wish.arch,
    )


def _filled(message: tasks_pb2.Resources, beside: tasks_pb2.Resources) -> tasks_pb2.Resources:
    """An alternative with what it leaves unset."""
    whole = tasks_pb2.Resources()
    whole.CopyFrom(beside)
    for field in ("any_of", "ordered"):
        whole.ClearField(field)
    if message.HasField("gpus"):
        whole.ClearField("gpus")
    for field in ("infra", "machine_types"):
        # Lists replace each other, where merging would add them up.
        if getattr(message.machine, field):
            whole.machine.ClearField(field)
    whole.MergeFrom(message)
    return whole
