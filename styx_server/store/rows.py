"""Rows to domain values and back; the only file that knows both."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any, Final

from styx_server.core.machines import reserved
from styx_server.core.machines.needs import ANY_MACHINE, MachineWish, SpotUse
from styx_server.core.machines.offer import Place
from styx_server.core.placement.capacity import Capacity, Gpu
from styx_server.core.placement.machine import PoolSays
from styx_server.core.session import LogEnd, StopCause, StopOrder
from styx_server.core.states import AttemptState, Cause, Desired, OutcomeKind, TaskState
from styx_server.core.task import (
    AgentId,
    AttemptView,
    EventView,
    Fence,
    NewTask,
    Outcome,
    Resources,
    RetryPolicy,
    Shape,
    TaskFacts,
    TaskId,
    TaskView,
)
from styx_server.store.database import Row

_WISH: Final = f"{reserved.PREFIX}wish"


def shape_to_json(shape: Shape) -> dict[str, Any]:
    """A shape as stored; equal shapes give equal text.

    What it says of machines and alternatives is stored as a label that no agent carries: a server of the version
    before, which knows nothing of them, then leaves such tasks to one that does.
    """
    need = shape.resources
    labels = [list(pair) for pair in sorted(need.labels)]
    if shape.picky or shape.alternatives:
        labels.append([_WISH, json.dumps(_wish_to_json(shape), sort_keys=True)])
    return {
        "pool": shape.pool,
        "cpus_milli": need.cpus_milli,
        "memory_bytes": need.memory_bytes,
        "gpu_count": need.gpu_count,
        "gpu_name": need.gpu_name,
        "disk_bytes": need.disk_bytes,
        "labels": labels,
    }


def shape_digest(shape: Shape) -> bytes:
    """SHA-256 of a shape as stored."""
    return hashlib.sha256(json.dumps(shape_to_json(shape), sort_keys=True).encode()).digest()


def shape_from_json(body: dict[str, Any]) -> Shape:
    """A stored shape."""
    needs = dict(body)
    pool = needs.pop("pool")
    labels = tuple((key, value) for key, value in needs.pop("labels"))
    if labels and labels[-1][0] == _WISH:
        *own, (_, wish) = labels
        return Shape(pool=pool, resources=Resources(labels=tuple(own), **needs), **_wish_from_json(json.loads(wish)))
    return Shape(pool=pool, resources=Resources(labels=labels, **needs))


def _wish_to_json(shape: Shape) -> dict[str, Any]:
    wish = shape.machine
    spoken = {each.name: getattr(wish, each.name) for each in fields(wish)}
    spoken = {name: value for name, value in spoken.items() if value != getattr(ANY_MACHINE, name)}
    if wish.places:
        spoken["places"] = [[place.provider, place.region, place.zone] for place in wish.places]
    return {
        "machine": spoken,
        "alternatives": [shape_to_json(each) for each in shape.alternatives],
        "ordered": shape.ordered,
    }


def _wish_from_json(body: dict[str, Any]) -> dict[str, Any]:
    machine: dict[str, Any] = {**body["machine"]}
    if "places" in machine:
        parts = machine["places"]
        machine["places"] = tuple(Place(provider=one, region=two, zone=three) for one, two, three in parts)
    if "machine_types" in machine:
        machine["machine_types"] = tuple(machine["machine_types"])
    if "spot" in machine:
        machine["spot"] = SpotUse(machine["spot"])
    return {
        "machine": MachineWish(**machine),
        "alternatives": tuple(shape_from_json(each) for each in body["alternatives"]),
        "ordered": body["ordered"],
    }


def pool_says(row: Row) -> PoolSays:
    """What the pool of an agent says for tasks that say nothing, in a row of `read_roster`."""
    word = row["pool_spot"]
    # A word of a later version is the careful one.
    return PoolSays(spot=SpotUse(word) if word in set(SpotUse) else SpotUse.NEVER, types=row["pool_types"])


def retry_to_json(retry: RetryPolicy) -> str | None:
    """A retry policy as stored; None for the default, which most tasks have."""
    if retry == RetryPolicy():
        return None
    return json.dumps(
        {
            "max_retries": retry.max_retries,
            "backoff_seconds": retry.backoff_seconds,
            "max_backoff_seconds": retry.max_backoff_seconds,
            "on_exit_codes": list(retry.on_exit_codes),
        }
    )


def retry_from_json(body: dict[str, Any] | None) -> RetryPolicy:
    """A stored retry policy."""
    if body is None:
        return RetryPolicy()
    return RetryPolicy(**{**body, "on_exit_codes": tuple(body["on_exit_codes"])})


def capacity_to_json(capacity: Capacity) -> dict[str, Any]:
    """A capacity as stored."""
    return {
        "cpus_milli": capacity.cpus_milli,
        "memory_bytes": capacity.memory_bytes,
        "disk_bytes": capacity.disk_bytes,
        "gpus": [{"index": gpu.index, "name": gpu.name, "memory_bytes": gpu.memory_bytes} for gpu in capacity.gpus],
    }


def capacity_from_json(body: dict[str, Any]) -> Capacity:
    """A stored capacity; of an agent that was never connected it is empty."""
    # Fields of a later version are left out.
    gpus = tuple(Gpu(**_known(gpu, Gpu)) for gpu in body.get("gpus", ()))
    return Capacity(gpus=gpus, **_known(body, Capacity, but="gpus"))


def _known(body: dict[str, Any], kind: type, but: str = "") -> dict[str, Any]:
    return {field.name: body[field.name] for field in fields(kind) if field.name in body and field.name != but}


def task_columns(tasks: Sequence[NewTask]) -> dict[str, object]:
    """What is stored of tasks apart from their specs, as parameters of `submit_tasks`."""
    return {
        "priorities": [task.priority for task in tasks],
        "at_most_once": [task.at_most_once for task in tasks],
        "disconnect_ms": [to_ms(task.disconnect_seconds) for task in tasks],
        "not_before": [task.not_before for task in tasks],
    }


def spec_columns(tasks: Sequence[NewTask]) -> dict[str, object]:
    """The specs of tasks, as parameters of `submit_tasks`."""
    return {
        "names": [task.name for task in tasks],
        "labels": [json.dumps(task.labels) for task in tasks],
        "retries": [retry_to_json(task.retry) for task in tasks],
        "bodies": [task.body for task in tasks],
    }


def gaps_to_json(end: LogEnd) -> str | None:
    """The gaps of a stream as stored; None when there are none."""
    if not end.gaps:
        return None
    return json.dumps([{"start": gap.start, "end": gap.end, "reason": gap.reason} for gap in end.gaps])


def facts(row: Row) -> TaskFacts:
    """A row of `read_facts`."""
    return TaskFacts(
        task_id=TaskId(row["id"]),
        state=TaskState(row["state"]),
        desired=Desired(row["desired"]),
        attempt=row["attempt"],
        fence=Fence(row["fence"]),
        attempt_state=AttemptState(row["attempt_state"]),
        agent_id=AgentId(row["agent_id"] or 0),
        at_most_once=row["at_most_once"],
        failures=row["failures"],
        infra_failures=row["infra_failures"],
        preemptions=row["preemptions"],
        retry=retry_from_json(row["retry"]),
        start_time=row["start_time"],
    )


def task_view(row: Row) -> TaskView:
    """A row of `get_tasks`."""
    return TaskView(
        task_id=TaskId(row["id"]),
        namespace=row["namespace"],
        name=row["name"],
        labels=row["labels"],
        state=TaskState(row["state"]),
        reason=row["reason"],
        message=row["message"],
        exit_code=row["exit_code"],
        create_time=row["create_time"],
        start_time=row["start_time"],
        end_time=row["end_time"],
        agent_id=None if row["agent_id"] is None else AgentId(row["agent_id"]),
        priority=row["priority"],
        attempt=row["attempt"],
        attempt_state=AttemptState(row["attempt_state"]),
        body=row["body"],
    )


def live_attempt_view(row: Row) -> AttemptView | None:
    """The live attempt in a row of `get_tasks`, if it has one."""
    state = AttemptState(row["attempt_state"])
    if not state.live:
        return None
    return AttemptView(
        number=row["attempt"],
        fence=Fence(row["fence"]),
        state=state,
        agent_id=AgentId(row["agent_id"]),
        cause=Cause(row["attempt_cause"]),
        assign_time=row["assign_time"],
        start_time=row["start_time"],
        end_time=None,
        outcome=None,
    )


def attempt_view(row: Row) -> AttemptView:
    """A row of `get_attempts`."""
    return AttemptView(
        number=row["number"],
        fence=Fence(row["fence"]),
        state=AttemptState.ENDED,
        agent_id=AgentId(row["agent_id"]),
        cause=Cause(row["cause"]),
        assign_time=row["assign_time"],
        start_time=row["start_time"],
        end_time=row["end_time"],
        outcome=Outcome(
            kind=OutcomeKind(row["outcome"]),
            exit_code=row["exit_code"],
            signal=row["signal"],
            message=row["message"],
            cpu_seconds=row["cpu_ms"] / 1000,
            max_memory_bytes=row["max_memory_bytes"],
        ),
    )


def event_view(row: Row) -> EventView:
    """A row of `get_timeline`."""
    return EventView(
        time=row["time"],
        kind=row["kind"],
        state=TaskState(row["state"]),
        attempt=row["attempt"],
        agent_id=None if row["agent_id"] is None else AgentId(row["agent_id"]),
        message=row["message"],
    )


def stop_orders(rows: Iterable[Row]) -> dict[AgentId, list[StopOrder]]:
    """Rows of attempts that are to stop, as orders for their agents."""
    orders: dict[AgentId, list[StopOrder]] = {}
    for row in rows:
        grace = row["stop_grace_ms"]
        # What a person asked for comes first: the agent may know of it from two sides, and takes the first it hears.
        cause = StopCause.CANCEL if row["desired"] == Desired.STOP else StopCause(row["stop_cause"])
        order = StopOrder(fence=Fence(row["fence"]), cause=cause, grace_seconds=None if grace is None else grace / 1000)
        orders.setdefault(AgentId(row["agent_id"]), []).append(order)
    return orders


def to_ms(seconds: float | None) -> int | None:
    """Seconds as whole milliseconds; None stays None."""
    return None if seconds is None else round(seconds * 1000)


def to_small(count: int | None) -> int | None:
    """A count as stored, which grows no further when the column is full; None stays None."""
    return None if count is None else min(count, 32767)
