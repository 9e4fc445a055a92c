"""What each agent has, and what is free of it. Next: `fleet.py`, which holds all agents.

All sums are integers (thousandths of a core, bytes), so that giving back always restores what was taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from styx_server.core.gpu_names import is_meant
from styx_server.core.placement.machine import MachineKind
from styx_server.core.placement.pace import Pace
from styx_server.core.task import AgentId, Fence, Resources, Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One accelerator: its index on the machine, its model, its memory in bytes."""

    index: int
    name: str
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What a machine has."""

    cpus_milli: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0
    gpus: tuple[Gpu, ...] = ()


def as_sold(capacity: Capacity, kind: MachineKind) -> Capacity:
    """What counts of what an agent says that it has: its accelerators have the memory that they were sold with.

    Otherwise machines would be rented for a wish that none of them then meets.
    """
    least = kind.gpu_memory_bytes
    if all(gpu.memory_bytes >= least for gpu in capacity.gpus):
        return capacity
    gpus = tuple(replace(gpu, memory_bytes=max(gpu.memory_bytes, least)) for gpu in capacity.gpus)
    return replace(capacity, gpus=gpus)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """What one attempt holds on its agent.

    Attributes:
        queued: it was given to the agent beyond its room, and holds nothing until others have ended.
    """

    agent_id: AgentId
    namespace: str
    resources: Resources
    gpu_indexes: tuple[int, ...] = ()
    queued: bool = False


_UNKNOWN_KIND: Final = MachineKind()


@dataclass(slots=True, kw_only=True)
class AgentSlots:
    """One agent with what is free on it.

    Attributes:
        epoch: of the session in which it would get work.
        accepting: whether it may get new work: connected, in time with its beats, not draining.
        queues: it can keep attempts until there is room for them.
        queue: those, in the order in which it starts them.
        behind: how many they are, with those that were just planned.
        allowance: how many more may be planned for it in the round that it was last looked at in.
    """

    agent_id: AgentId
    pool: str
    labels: Mapping[str, str]
    total: Capacity
    kind: MachineKind = _UNKNOWN_KIND
    epoch: int = 0
    accepting: bool = True
    free_cpus_milli: int = 0
    free_memory_bytes: int = 0
    free_disk_bytes: int = 0
    free_gpus: list[Gpu] = field(default_factory=list)
    queues: bool = False
    queue: dict[Fence, Reservation] = field(default_factory=dict)
    behind: int = 0
    allowance: int = 0
    looked_at: float = -1.0
    pace: Pace = field(default_factory=Pace)

    def __post_init__(self) -> None:
        self.free_cpus_milli = self.total.cpus_milli
        self.free_memory_bytes = self.total.memory_bytes
        self.free_disk_bytes = self.total.disk_bytes
        self.free_gpus = list(self.total.gpus)

    def lacks(self, shape: Shape) -> str:
        """What this agent can never give `shape`, in words; empty when it could run it while idle.

        Of a shape with alternatives it is asked for each of them.
        """
        need = shape.resources
        if self.pool != shape.pool:
            return f"pool {shape.pool}"
        for key, value in need.labels:
            if self.labels.get(key) != value:
                return f"label {key}={value}"
        if need.cpus_milli > self.total.cpus_milli:
            return f"{need.cpus_milli / 1000:g} cpus"
        if need.memory_bytes > self.total.memory_bytes:
            return f"{need.memory_bytes / 2**30:.4g} GiB of memory"
        if need.disk_bytes > self.total.disk_bytes:
            return f"{need.disk_bytes / 2**30:.4g} GiB of disk"
        if need.gpu_count:
            least = shape.machine.gpu_memory_bytes
            if len(_matching(self.total.gpus, need.gpu_name, least)) < need.gpu_count:
                size = f" of {least / 2**30:.4g} GiB" if least else ""
                return f"{need.gpu_count} gpus {need.gpu_name}".rstrip() + size
        if shape.picky or self.kind.judges:
            return self.kind.lacks(shape.machine)
        return ""

    def fits_now(self, shape: Shape) -> bool:
        """Whether what is free now is enough; only asked of agents that lack nothing."""
        return self.accepting and self._has_free(shape.resources, shape.machine.gpu_memory_bytes)

    def may_queue(self, need: Resources, now: float) -> bool:
        """Whether it may be given this although it has no room; only asked of agents that lack nothing.

        Args:
            need: what is to be placed.
            now: seconds on the monotonic clock; the same for all questions of one round.
        """
        if not self.queues or not self.accepting or need.gpu_count:
            return False
        if self.looked_at != now:
            self.looked_at = now
            wanted = self.pace.allowance(now)
            # In bulk: as soon as half of them are gone, not one by one.
            self.allowance = max(0, wanted - self.behind) if self.behind <= wanted // 2 else 0
        return self.allowance > 0

    def _has_free(self, need: Resources, gpu_memory_bytes: int = 0) -> bool:
        return (
            need.cpus_milli <= self.free_cpus_milli
            and need.memory_bytes <= self.free_memory_bytes
            and need.disk_bytes <= self.free_disk_bytes
            and (
                not need.gpu_count or len(_matching(self.free_gpus, need.gpu_name, gpu_memory_bytes)) >= need.gpu_count
            )
        )

    def take(self, shape: Shape) -> tuple[int, ...]:
        """Reserves; returns the indexes of the accelerators, lowest first."""
        need = shape.resources
        self.free_cpus_milli -= need.cpus_milli
        self.free_memory_bytes -= need.memory_bytes
        self.free_disk_bytes -= need.disk_bytes
        if not need.gpu_count:
            return ()
        fitting = _matching(self.free_gpus, need.gpu_name, shape.machine.gpu_memory_bytes)
        taken = tuple(gpu.index for gpu in fitting[: need.gpu_count])
        self._drop_gpus(taken)
        return taken

    def hold(self, reservation: Reservation) -> None:
        """Reserves what an attempt already has, even when that is more than there is."""
        self.free_cpus_milli -= reservation.resources.cpus_milli
        self.free_memory_bytes -= reservation.resources.memory_bytes
        self.free_disk_bytes -= reservation.resources.disk_bytes
        self._drop_gpus(reservation.gpu_indexes)

    def give(self, reservation: Reservation) -> None:
        """Gives back what an attempt had."""
        self.free_cpus_milli += reservation.resources.cpus_milli
        self.free_memory_bytes += reservation.resources.memory_bytes
        self.free_disk_bytes += reservation.resources.disk_bytes
        if reservation.gpu_indexes:
            back = [gpu for gpu in self.total.gpus if gpu.index in reservation.gpu_indexes]
            self.free_gpus = sorted({*self.free_gpus, *back}, key=lambda gpu: gpu.index)

    def plan_queued(self) -> None:
        """One more will wait there."""
        self.behind += 1
        self.allowance -= 1

    def end(self, fence: Fence, reservation: Reservation) -> bool:
        """An attempt is over; those that wait move up as they do on the agent. Whether it had room before it ended."""
        had_room = self.queue.pop(fence, None) is None
        if had_room:
            self.give(reservation)
        else:
            self.behind -= 1
        self.move_up()
        return had_room

    def move_up(self) -> None:
        """Those that wait take what is free, strictly in their order."""
        while self.queue:
            fence, reservation = next(iter(self.queue.items()))
            if not self._has_free(reservation.resources):
                return
            del self.queue[fence]
            self.behind -= 1
            self.hold(reservation)

    def _drop_gpus(self, indexes: tuple[int, ...]) -> None:
        if indexes:
            self.free_gpus = [gpu for gpu in self.free_gpus if gpu.index not in indexes]


def _matching(gpus: Iterable[Gpu], name: str, memory_bytes: int) -> list[Gpu]:
    """Those that `name` means, with at least so much memory each."""
    return [gpu for gpu in gpus if gpu.memory_bytes >= memory_bytes and is_meant(gpu.name, name)]
