"""Messages to domain values and back; the only file that knows both. A property test holds the round trips."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from styx.v1 import agents_pb2, styx_service_pb2, tasks_pb2
from styx_server import clock
from styx_server.core.errors import InvalidRequest, Violation
from styx_server.core.lease import USUAL_TERMS, LeaseTerms
from styx_server.core.limits import admit
from styx_server.core.placement.capacity import Capacity, Gpu
from styx_server.core.session import LogGap
from styx_server.core.task import (
    DEFAULT_BACKOFF_SECONDS,
    DEFAULT_DISCONNECT_SECONDS,
    DEFAULT_MAX_BACKOFF_SECONDS,
    AgentId,
    AttemptView,
    EventView,
    NewTask,
    Outcome,
    RetryPolicy,
    TaskId,
    TaskSpec,
    TaskView,
)
from styx_server.services.agents import AgentView
from styx_server.services.log_reading import Piece
from styx_server.services.log_streams import StreamState
from styx_server.services.tasks import TaskDetails
from styx_server.transport.needs_codec import asked_needs, milli

_MAX_NUMBER_CHARS: Final = 18
_MAX_GPU_INDEX: Final = 32_767
_DECODE_SLICE: Final = 100
_PAGE_BYTES: Final = 2 << 20
"""Half of the largest message: tasks of a page that need more come with the next one."""


def task_id(text: str, field: str = "task_id") -> TaskId:
    """Reads `t42` or `42`."""
    return TaskId(number(text, "t", field))


def agent_id(text: str) -> AgentId:
    """Reads `a3` or `3`."""
    return AgentId(number(text, "a", "agent_id"))


def request_digest(message: Message) -> bytes:
    """SHA-256 of a request without its id, so that two requests can be told apart."""
    copy = type(message)()
    copy.CopyFrom(message)
    copy.ClearField("request_id")
    return hashlib.sha256(copy.SerializeToString(deterministic=True)).digest()


def new_task(spec: tasks_pb2.TaskSpec, path: str, terms: LeaseTerms = USUAL_TERMS) -> NewTask:
    """Decodes and judges a spec.

    Raises:
        InvalidRequest: something is wrong with it.
    """
    body = spec.SerializeToString(deterministic=True)
    return admit(task_spec(spec, len(body), path), body, path, terms)


async def new_tasks(specs: Iterable[tasks_pb2.TaskSpec], terms: LeaseTerms = USUAL_TERMS) -> list[NewTask]:
    """Decodes and judges many; those with the same spec come back as one object.

    Lets others run now and then: ten thousand different specs take a third of a second.

    Raises:
        InvalidRequest: something is wrong with one of them.
    """
    known: dict[bytes, NewTask] = {}
    tasks: list[NewTask] = []
    for index, spec in enumerate(specs):
        body = spec.SerializeToString(deterministic=True)
        task = known.get(body)
        if task is None:
            path = f"specs[{index}]"
            task = known[body] = admit(task_spec(spec, len(body), path), body, path, terms)
        tasks.append(task)
        if len(tasks) % _DECODE_SLICE == 0:
            await clock.sleep(0)
    return tasks


def task_spec(spec: tasks_pb2.TaskSpec, size_bytes: int, path: str = "spec") -> TaskSpec:
    """Decodes a spec, without judging it."""
    needs = asked_needs(spec.resources, f"{path}.resources")
    return TaskSpec(
        name=spec.name,
        command=spec.command,
        argv=tuple(spec.argv),
        setup=spec.setup,
        env=dict(spec.env),
        workdir=spec.workdir,
        cpus=needs.own.cpus,
        resources=needs.own.resources,
        machine=needs.own.machine,
        alternatives=needs.alternatives,
        ordered=needs.ordered,
        both_alternatives=needs.both,
        pool=spec.pool,
        priority=spec.priority,
        timeout_seconds=_seconds(spec, "timeout"),
        stop_grace_seconds=_seconds(spec, "stop_grace"),
        disconnect_seconds=_disconnect(spec.disconnect_timeout),
        at_most_once=spec.at_most_once,
        retry=_retry(spec.retry),
        labels=dict(spec.labels),
        spool_bytes=spec.logs.spool_bytes,
        not_before=_time(spec, "not_before", path),
        unsupported=tuple(_unsupported(spec)),
        size_bytes=size_bytes,
    )


def duration_seconds(message: Message, field: str) -> float | None:
    """A Duration field in seconds; None when it is not set."""
    return _seconds(message, field)


def time_of(message: Message, field: str) -> datetime | None:
    """A Timestamp field; None when it is not set.

    Raises:
        InvalidRequest: it is before the year 1 or after 9999.
    """
    return _time(message, field, "")


def task(view: TaskView) -> tasks_pb2.Task:
    """A task without its attempts."""
    message = tasks_pb2.Task(
        id=f"t{view.task_id}",
        namespace=view.namespace,
        name=view.name,
        labels=view.labels,
        state=int(view.state),  # type: ignore[arg-type]
        reason=view.reason,
        message=view.message,
        exit_code=view.exit_code,
        create_time=timestamp(view.create_time),
        start_time=timestamp(view.start_time),
        end_time=timestamp(view.end_time),
        agent_id=agent_name(view.agent_id),
        priority=view.priority,
        attempt_count=view.attempt,
    )
    if view.body:
        message.spec.ParseFromString(view.body)
    return message


def pages(tasks: list[tasks_pb2.Task]) -> list[list[tasks_pb2.Task]]:
    """Tasks in groups that fit into one message each; at least one group, which may be empty."""
    groups: list[list[tasks_pb2.Task]] = [[]]
    size = 0
    for item in tasks:
        bytes_more = item.ByteSize()
        if groups[-1] and size + bytes_more > _PAGE_BYTES:
            groups.append([])
            size = 0
        groups[-1].append(item)
        size += bytes_more
    return groups


def task_details(details: TaskDetails) -> tasks_pb2.Task:
    """A task with everything."""
    message = task(details.task)
    streams: dict[int, list[StreamState]] = {}
    for state in details.streams:
        streams.setdefault(state.key.attempt, []).append(state)
    message.attempts.extend(attempt(item, streams.get(item.number, [])) for item in details.attempts)
    message.timeline.extend(_event(item) for item in details.timeline)
    return message


def attempt(view: AttemptView, streams: Iterable[StreamState]) -> tasks_pb2.Attempt:
    """One attempt with what is known of its output."""
    return tasks_pb2.Attempt(
        number=view.number,
        fence=view.fence,
        state=int(view.state),  # type: ignore[arg-type]
        agent_id=agent_name(view.agent_id),
        cause=str(view.cause),
        assign_time=timestamp(view.assign_time),
        start_time=timestamp(view.start_time),
        end_time=timestamp(view.end_time),
        outcome=None if view.outcome is None else _outcome(view.outcome),
        logs=[_log_summary(state) for state in streams],
    )


def agent(view: AgentView) -> agents_pb2.Agent:
    """One agent."""
    return agents_pb2.Agent(
        id=agent_name(view.agent_id),
        name=view.name,
        state=int(view.state),  # type: ignore[arg-type]
        pool=view.pool,
        labels=view.labels,
        capacity=capacity_message(view.capacity),
        reserved=capacity_message(view.reserved),
        attempt_count=view.attempts,
        version=view.version,
        epoch=view.epoch,
        create_time=timestamp(view.create_time),
        last_beat_time=timestamp(view.beat_time),
        isolation=view.isolation,
        facts=view.facts,
        drain_deadline=timestamp(view.drain_deadline),
        task_ids=[f"t{task_id}" for task_id in view.task_ids],
    )


def capacity_message(capacity: Capacity) -> agents_pb2.Capacity:
    """What a machine has."""
    return agents_pb2.Capacity(
        cpus=capacity.cpus_milli / 1000,
        memory_bytes=max(0, capacity.memory_bytes),
        disk_bytes=max(0, capacity.disk_bytes),
        gpus=[agents_pb2.Gpu(index=gpu.index, name=gpu.name, memory_bytes=gpu.memory_bytes) for gpu in capacity.gpus],
    )


def capacity(message: agents_pb2.Capacity) -> Capacity:
    """What a machine says that it has; an accelerator whose index is taken or out of bounds is passed over."""
    gpus = {
        gpu.index: Gpu(index=gpu.index, name=gpu.name.replace("\0", ""), memory_bytes=gpu.memory_bytes)
        for gpu in reversed(message.gpus)
        if gpu.index <= _MAX_GPU_INDEX
    }
    return Capacity(
        cpus_milli=milli(message.cpus),
        memory_bytes=message.memory_bytes,
        disk_bytes=message.disk_bytes,
        gpus=tuple(gpus[index] for index in sorted(gpus)),
    )


def log_piece(piece: Piece) -> styx_service_pb2.StreamLogsResponse:
    """Some output."""
    return styx_service_pb2.StreamLogsResponse(
        attempt=piece.attempt,
        stream=int(piece.stream),  # type: ignore[arg-type]
        offset=piece.start,
        data=piece.data,
        times=[styx_service_pb2.LogTime(offset=at, time=timestamp(when)) for at, when in piece.times],
        gaps=[log_gap(gap) for gap in piece.gaps],
        end_of_stream=piece.last,
        incomplete=piece.incomplete,
    )


def log_gap(gap: LogGap) -> tasks_pb2.LogGap:
    """A range that is missing."""
    return tasks_pb2.LogGap(start_offset=gap.start, end_offset=gap.end, reason=gap.reason)


def timestamp(when: datetime | None) -> Timestamp | None:
    """A time with its zone; None stays None."""
    if when is None:
        return None
    message = Timestamp()
    message.FromDatetime(when)
    return message


def duration(seconds: float) -> Duration:
    """Seconds as a Duration."""
    message = Duration()
    message.FromTimedelta(timedelta(seconds=seconds))
    return message


def agent_name(number: AgentId | None) -> str:
    """An agent's id as people write it."""
    return f"a{number}" if number else ""


def _outcome(outcome: Outcome) -> tasks_pb2.Outcome:
    return tasks_pb2.Outcome(
        kind=int(outcome.kind),  # type: ignore[arg-type]
        exit_code=outcome.exit_code,
        signal=outcome.signal,
        message=outcome.message,
        cpu_time=duration(outcome.cpu_seconds),
        max_memory_bytes=outcome.max_memory_bytes,
    )


def _event(event: EventView) -> tasks_pb2.TaskEvent:
    return tasks_pb2.TaskEvent(
        time=timestamp(event.time),
        kind=event.kind,
        state=int(event.state),  # type: ignore[arg-type]
        attempt=event.attempt,
        agent_id=agent_name(event.agent_id),
        message=event.message,
    )


def _log_summary(state: StreamState) -> tasks_pb2.LogSummary:
    return tasks_pb2.LogSummary(
        stream=int(state.key.stream),  # type: ignore[arg-type]
        stored_bytes=state.stored,
        total_bytes=state.total,
        sealed=state.sealed,
        corrupt=state.corrupt,
        sha256=state.sha256,
        gaps=[log_gap(gap) for gap in state.gaps],
    )


def _retry(policy: tasks_pb2.RetryPolicy) -> RetryPolicy:
    backoff, longest = _seconds(policy, "backoff"), _seconds(policy, "max_backoff")
    return RetryPolicy(
        max_retries=policy.max_retries,
        backoff_seconds=DEFAULT_BACKOFF_SECONDS if backoff is None else backoff,
        max_backoff_seconds=DEFAULT_MAX_BACKOFF_SECONDS if longest is None else longest,
        on_exit_codes=tuple(policy.on_exit_codes),
    )


def _disconnect(message: tasks_pb2.DisconnectTimeout) -> float | None:
    if message.never:
        return None
    seconds = _seconds(message, "after")
    return DEFAULT_DISCONNECT_SECONDS if seconds is None else seconds


def _unsupported(spec: tasks_pb2.TaskSpec) -> Iterable[str]:
    given: dict[str, Callable[[], bool]] = {
        "image": lambda: bool(spec.image),
        "depends_on": lambda: bool(spec.depends_on),
        "secrets": lambda: bool(spec.secrets),
        "deadline": lambda: spec.HasField("deadline"),
    }
    return [name for name, is_given in given.items() if is_given()]


def _seconds(message: Message, field: str) -> float | None:
    if not message.HasField(field):
        return None
    span = getattr(message, field)
    return float(span.seconds) + float(span.nanos) / 1e9


def _time(message: Message, field: str, path: str) -> datetime | None:
    if not message.HasField(field):
        return None
    try:
        when: datetime = getattr(message, field).ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        violation = Violation(
            field=f"{path}.{field}".lstrip("."), description="is no time between the years 1 and 9999"
        )
        raise InvalidRequest([violation]) from None
    return when


def number(text: str, letter: str, field: str) -> int:
    """Reads an id with its letter, or without."""
    digits = text.strip().removeprefix(letter)
    if not (digits.isascii() and digits.isdigit() and len(digits) <= _MAX_NUMBER_CHARS):
        shown = text if len(text) <= 40 else text[:40] + "..."
        raise InvalidRequest([Violation(field=field, description=f"is {shown!r}, which is no id like {letter}42")])
    return int(digits)
