"""What the server means by a task: the spec as values, what scheduling needs of it, and what became of it.

Frozen values only. `limits.py` says which specs are good; `outcome.py` what follows when an attempt ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NewType

from styx_server.core.machines.needs import ANY_MACHINE, NOTHING_ASKED, AskedMachine, MachineWish
from styx_server.core.states import AttemptState, Cause, Desired, OutcomeKind, TaskState

TaskId = NewType("TaskId", int)
AgentId = NewType("AgentId", int)
Fence = NewType("Fence", int)

DEFAULT_NAMESPACE = "default"
DEFAULT_POOL = "default"
DEFAULT_DISCONNECT_SECONDS = 900.0
DEFAULT_BACKOFF_SECONDS = 1.0
DEFAULT_MAX_BACKOFF_SECONDS = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What a task reserves on a machine. Processor time is in thousandths of a core, so that sums are exact."""

    cpus_milli: int = 1000
    memory_bytes: int = 0
    gpu_count: int = 0
    gpu_name: str = ""
    disk_bytes: int = 0
    labels: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """All that scheduling looks at; tasks of one shape are interchangeable but for priority, namespace and age.

    It is looked up several times for each task that is placed, so its hash is made once.

    Attributes:
        resources: what is reserved; of a shape with alternatives, by the first of them.
        machine: which machines are meant; likewise.
        alternatives: shapes without alternatives, any of which will do; none: only this one.
        ordered: the first of them that can be had is wanted, not the cheapest.
        picky: `machine` says something.
    """

    pool: str
    resources: Resources
    machine: MachineWish = ANY_MACHINE
    alternatives: tuple[Shape, ...] = ()
    ordered: bool = False
    picky: bool = field(init=False, repr=False, compare=False)
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        picky = self.machine is not ANY_MACHINE and self.machine != ANY_MACHINE
        object.__setattr__(self, "picky", picky)
        content = (self.pool, self.resources, self.machine, self.alternatives, self.ordered)
        object.__setattr__(self, "_hash", hash(content))

    def __hash__(self) -> int:
        return self._hash

    @property
    def choices(self) -> tuple[Shape, ...]:
        """What it may be placed as: its alternatives, or else itself."""
        return self.alternatives or (self,)


def any_shape_of(alternatives: Sequence[Shape], *, ordered: bool) -> Shape:
    """One shape for all of these, at least one, of which each says the same pool. Their order is that of the spec."""
    first = alternatives[0]
    return Shape(
        pool=first.pool,
        resources=first.resources,
        machine=first.machine,
        alternatives=tuple(alternatives),
        ordered=ordered,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Retries for failures of the command itself. An empty `on_exit_codes` means every failure."""

    max_retries: int = 0
    backoff_seconds: float = DEFAULT_BACKOFF_SECONDS
    max_backoff_seconds: float = DEFAULT_MAX_BACKOFF_SECONDS
    on_exit_codes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """One of several things that a caller would take, complete: what it left unset is filled in.

    Attributes:
        nested: it had alternatives itself, which is refused.
    """

    cpus: float | None = None
    resources: Resources = Resources()
    machine: AskedMachine = NOTHING_ASKED
    nested: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """A spec as the caller sent it, decoded but not yet judged. `None` means: not given."""

    name: str = ""
    command: str = ""
    argv: tuple[str, ...] = ()
    setup: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str = ""
    cpus: float | None = None
    resources: Resources = Resources()
    machine: AskedMachine = NOTHING_ASKED
    alternatives: tuple[Alternative, ...] = ()
    ordered: bool = False
    both_alternatives: bool = False
    pool: str = ""
    priority: int = 0
    timeout_seconds: float | None = None
    stop_grace_seconds: float | None = None
    disconnect_seconds: float | None = DEFAULT_DISCONNECT_SECONDS
    at_most_once: bool = False
    retry: RetryPolicy = RetryPolicy()
    labels: Mapping[str, str] = field(default_factory=dict)
    spool_bytes: int = 0
    not_before: datetime | None = None
    unsupported: tuple[str, ...] = ()
    size_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTask:
    """A task that was admitted: the few fields the server acts on, and the spec as opaque bytes for the agent."""

    name: str
    labels: Mapping[str, str]
    shape: Shape
    priority: int
    at_most_once: bool
    disconnect_seconds: float | None
    retry: RetryPolicy
    not_before: datetime | None
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an attempt ended."""

    kind: OutcomeKind
    exit_code: int | None = None
    signal: int = 0
    message: str = ""
    cpu_seconds: float = 0.0
    max_memory_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFacts:
    """The part of a task that decisions about its attempts are made from."""

    task_id: TaskId
    state: TaskState
    desired: Desired
    attempt: int
    fence: Fence
    attempt_state: AttemptState
    agent_id: AgentId
    at_most_once: bool
    failures: int
    infra_failures: int
    preemptions: int
    retry: RetryPolicy
    start_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptView:
    """One attempt as users see it. `number` counts from 1 within the task."""

    number: int
    fence: Fence
    state: AttemptState
    agent_id: AgentId
    cause: Cause
    assign_time: datetime | None
    start_time: datetime | None
    end_time: datetime | None
    outcome: Outcome | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """One task as users see it. `body` is the opaque spec, empty when it was not asked for."""

    task_id: TaskId
    namespace: str
    name: str
    labels: Mapping[str, str]
    state: TaskState
    reason: str
    message: str
    exit_code: int | None
    create_time: datetime
    start_time: datetime | None
    end_time: datetime | None
    agent_id: AgentId | None
    priority: int
    attempt: int
    attempt_state: AttemptState
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class EventView:
    """One thing that happened to a task."""

    time: datetime
    kind: str
    state: TaskState
    attempt: int
    agent_id: AgentId | None
    message: str
