"""Values for tests, with defaults for all that a test does not speak of."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from styx.v1 import tasks_pb2
from styx_server.core.limits import admit
from styx_server.core.placement.backlog import Waiting
from styx_server.core.placement.capacity import AgentSlots, Capacity, Gpu
from styx_server.core.states import AttemptState, Desired, OutcomeKind, TaskState
from styx_server.core.task import (
    AgentId,
    Fence,
    NewTask,
    Outcome,
    Resources,
    RetryPolicy,
    Shape,
    TaskFacts,
    TaskId,
    TaskSpec,
)

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
GIB = 2**30


def a_spec(**changes: Any) -> TaskSpec:
    """A good spec."""
    return TaskSpec(**{"command": "true", **changes})


def a_new_task(**changes: Any) -> NewTask:
    """A task that was admitted; `changes` are those of its spec."""
    spec = a_spec(**changes)
    body = tasks_pb2.TaskSpec(name=spec.name, command=spec.command, argv=spec.argv)
    return admit(spec, body.SerializeToString())


def a_shape(pool: str = "default", **need: Any) -> Shape:
    """What a task needs; one core unless said otherwise."""
    return Shape(pool=pool, resources=Resources(**need))


def a_waiting(task_id: int, *, namespace: str = "default", priority: int = 0, **changes: Any) -> Waiting:
    """A task that waits."""
    shape = changes.pop("shape", None) or a_shape()
    return Waiting(TaskId(task_id), namespace, priority, shape, **changes)


def some_gpus(*names: str) -> tuple[Gpu, ...]:
    """Accelerators with these models."""
    return tuple(Gpu(index=index, name=name, memory_bytes=80 * GIB) for index, name in enumerate(names))


def a_capacity(cpus: float = 4, memory_bytes: int = 16 * GIB, gpus: tuple[Gpu, ...] = ()) -> Capacity:
    """What a machine has."""
    return Capacity(cpus_milli=round(cpus * 1000), memory_bytes=memory_bytes, disk_bytes=100 * GIB, gpus=gpus)


def some_slots(agent_id: int = 1, **changes: Any) -> AgentSlots:
    """An idle agent."""
    capacity = changes.pop("total", None) or a_capacity()
    return AgentSlots(**{"agent_id": AgentId(agent_id), "pool": "default", "labels": {}, "total": capacity, **changes})


def some_facts(**changes: Any) -> TaskFacts:
    """A task whose first attempt runs."""
    defaults: dict[str, Any] = {
        "task_id": TaskId(1),
        "state": TaskState.RUNNING,
        "desired": Desired.RUN,
        "attempt": 1,
        "fence": Fence(7),
        "attempt_state": AttemptState.RUNNING,
        "agent_id": AgentId(1),
        "at_most_once": False,
        "failures": 0,
        "infra_failures": 0,
        "preemptions": 0,
        "retry": RetryPolicy(),
        "start_time": NOW,
    }
    return TaskFacts(**{**defaults, **changes})


def exited(code: int = 0, **changes: Any) -> Outcome:
    """The command exited by itself."""
    return Outcome(kind=OutcomeKind.EXITED, exit_code=code, **changes)


def an_outcome(kind: OutcomeKind) -> Outcome:
    """An end of some kind; EXITED with a failure."""
    return Outcome(kind=kind, exit_code=3 if kind is OutcomeKind.EXITED else None)
