"""One round of scheduling: what waits and what is free in, placements and the reasons of the rest out."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from styx_server.core.placement.backlog import Backlog, Waiting
from styx_server.core.placement.capacity import AgentSlots, Reservation
from styx_server.core.placement.fleet import Fleet
from styx_server.core.states import Reason
from styx_server.core.task import Shape


@dataclass(frozen=True, slots=True)
class Placement:
    """This task goes to that agent, which has reserved what it needs.

    Attributes:
        alternative: which of the alternatives of its shape it is given; None: it has none.
    """

    task: Waiting
    reservation: Reservation
    alternative: int | None = None


@dataclass(slots=True)
class Plan:
    """What a round decided.

    Attributes:
        placements: in the order in which turns came.
        blocked: for each shape that has to wait, the reason and one sentence for people.
    """

    placements: list[Placement] = field(default_factory=list)
    blocked: dict[Shape, tuple[Reason, str]] = field(default_factory=dict)


def plan_round(backlog: Backlog, fleet: Fleet, usage: dict[str, int], *, limit: int, now: float) -> Plan:
    """Places up to `limit` tasks and takes them out of the backlog.

    Args:
        backlog: what waits; placed tasks are removed from it.
        fleet: what is free; placements are reserved in it.
        usage: thousandths of cores in use by namespace, kept up to date by this function; the smallest goes first
            among equals in priority.
        limit: how many placements at most.
        now: in seconds on the monotonic clock.
    """
    plan = Plan()
    heads = [
        (-task.priority, usage.get(name, 0), task.task_id, name, shape_index, shape)
        for name, waiting in backlog.namespaces.items()
        for shape_index, shape in enumerate(waiting.shapes())
        if (task := waiting.head(shape)) is not None
    ]
    heapq.heapify(heads)
    while heads and len(plan.placements) < limit:
        _, share, _, name, shape_index, shape = heapq.heappop(heads)
        waiting = backlog.namespaces[name]
        task = waiting.head(shape)
        if task is None or shape in plan.blocked:
            continue
        used = usage.get(name, 0)
        if used != share:
            heapq.heappush(heads, (-task.priority, used, task.task_id, name, shape_index, shape))
            continue
        found = fleet.place(task.shape, now)
        if found is None:
            possible, message = fleet.explain(task.shape)
            plan.blocked[task.shape] = (Reason.CAPACITY if possible else Reason.NO_MATCH, message)
            continue
        plan.placements.append(_reserve(task, *found, usage))
        waiting.discard(task.task_id)
        if following := waiting.head(shape):
            entry = (-following.priority, usage[name], following.task_id, name, shape_index, shape)
            heapq.heappush(heads, entry)
    return plan


def _reserve(task: Waiting, agent: AgentSlots, number: int, usage: dict[str, int]) -> Placement:
    chosen = task.shape.choices[number]
    need = chosen.resources
    queued = not agent.fits_now(chosen)
    gpu_indexes: tuple[int, ...] = ()
    if queued:
        agent.plan_queued()
    else:
        gpu_indexes = agent.take(chosen)
    usage[task.namespace] = usage.get(task.namespace, 0) + max(1, need.cpus_milli)
    reservation = Reservation(
        agent_id=agent.agent_id, namespace=task.namespace, resources=need, gpu_indexes=gpu_indexes, queued=queued
    )
    alternative = number if task.shape.alternatives else None
    return Placement(task=task, reservation=reservation, alternative=alternative)
