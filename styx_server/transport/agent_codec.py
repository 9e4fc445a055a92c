"""The agents' messages to domain values and back. Ages become times by this server's clock."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Final

from styx.agent.v1 import agent_service_pb2 as wire
from styx.v1 import tasks_pb2
from styx_server.core.errors import InvalidRequest, Violation
from styx_server.core.limits import MAX_LABELS
from styx_server.core.machines.reserved import without_reserved
from styx_server.core.session import (
    Assignment,
    AttemptReport,
    HeldAttempt,
    Hello,
    LogEnd,
    LogGap,
    LogStream,
    PreemptionNotice,
    StopOrder,
    Verdict,
)
from styx_server.core.states import AttemptState, OutcomeKind
from styx_server.core.task import AgentId, Fence, Outcome, TaskId
from styx_server.services.log_codec import MAX_CHUNK_BYTES, Codec, pack_times
from styx_server.services.log_streams import Chunk
from styx_server.transport.codec import capacity, duration, duration_seconds
from styx_server.transport.needs_codec import with_alternative

MAX_MESSAGE_CHARS: Final = 1000
_MAX_CPU_SECONDS: Final = 1e9
_MAX_NOTICE_SECONDS: Final = 86_400.0
_MAX_EPOCH: Final = 2**53
_MAX_AGE_MICROS: Final = 10**15
_STATES: Final[dict[int, AttemptState]] = {state.value: state for state in AttemptState}
_KINDS: Final[dict[int, OutcomeKind]] = {kind.value: kind for kind in OutcomeKind}


def hello(message: wire.Hello, now: datetime) -> Hello:
    """The first message of a session."""
    return Hello(
        agent_id=AgentId(message.agent_id),
        boot_id=_clean(message.boot_id),
        supervisor_id=_clean(message.supervisor_id),
        last_epoch=max(0, min(message.last_epoch, _MAX_EPOCH)),
        version=_clean(message.version),
        capacity=capacity(message.capacity),
        labels=without_reserved(_bounded(message.labels)),
        facts=_bounded(message.facts),
        isolation=_clean(message.isolation),
        held=tuple(_held(item, now) for item in message.attempts),
        draining=message.draining,
        queues=wire.FEATURE_QUEUE in message.features,
    )


def notice(message: wire.Heartbeat) -> PreemptionNotice | None:
    """That the agent's machine is taken back, if the beat says so."""
    if not message.HasField("preemption_notice"):
        return None
    left = duration_seconds(message.preemption_notice, "time_left") or 0.0
    source = _clean(message.preemption_notice.source)
    return PreemptionNotice(left_seconds=max(0.0, min(left, _MAX_NOTICE_SECONDS)), source=source)


def report(message: wire.AttemptReport, now: datetime) -> AttemptReport:
    """What happened to one attempt.

    Raises:
        InvalidRequest: it says nothing that can be understood.
    """
    state = _attempt_state(message.state)
    outcome = None
    if state is AttemptState.ENDED:
        outcome = _outcome(message.outcome)
    logs = tuple(_log_end(item) for item in message.logs) if message.logs else ()
    if len(logs) > 1 and len({end.stream for end in logs}) < len(logs):
        raise InvalidRequest([Violation(field="logs", description="name a stream twice")])
    return AttemptReport(
        fence=Fence(message.fence),
        task_id=TaskId(message.task_id),
        state=state,
        start_time=_ago(message, "started_ago", now),
        end_time=_ago(message, "ended_ago", now) or (now if outcome else None),
        outcome=outcome,
        logs=logs,
    )


def chunk(message: wire.LogChunk, now: datetime) -> Chunk:
    """Contiguous bytes of a stream.

    Raises:
        InvalidRequest: its length is out of bounds, or its packing is unknown.
    """
    if not 0 <= message.length <= MAX_CHUNK_BYTES or message.offset < 0:
        text = f"is {message.length}, must be 0 to {MAX_CHUNK_BYTES}"
        raise InvalidRequest([Violation(field="chunks.length", description=text)])
    times = [
        (position, now - timedelta(microseconds=max(0, min(age, _MAX_AGE_MICROS))))
        for position, age in zip(message.time_offsets, message.time_ages_micros, strict=False)
    ]
    return Chunk(
        start=message.offset,
        length=message.length,
        codec=Codec.ZSTD if message.codec == wire.LogChunk.ZSTD else Codec.IDENTITY,
        data=message.data,
        times=pack_times(times),
        gap=_gap(message.gap) if message.HasField("gap") else None,
    )


def assign(assignments: Iterable[Assignment]) -> wire.ServerMessage:
    """Orders to start."""
    items = [
        wire.Assignment(
            fence=item.fence,
            task_id=item.task_id,
            attempt=item.attempt,
            spec=item.body if item.alternative is None else with_alternative(item.body, item.alternative),
            gpu_indexes=item.gpu_indexes,
            namespace=item.namespace,
        )
        for item in assignments
    ]
    return wire.ServerMessage(assign=wire.Assign(assignments=items))


def stop(order: StopOrder) -> wire.StopAttempt:
    """An order to stop."""
    grace = order.grace_seconds
    return wire.StopAttempt(
        fence=order.fence,
        cause=int(order.cause),  # type: ignore[arg-type]
        grace=None if grace is None else duration(grace),
    )


def verdict(item: Verdict) -> wire.Verdict:
    """What to do with a held attempt."""
    return wire.Verdict(
        fence=item.fence,
        action=int(item.action),  # type: ignore[arg-type]
        start_acked=item.start_acked,
        end_acked=item.end_acked,
        stop=None if item.stop is None else stop(item.stop),
        logs=[
            wire.LogPosition(stream=int(stream), offset=offset)  # type: ignore[arg-type]
            for stream, offset in item.logs
        ],
    )


def _held(message: wire.HeldAttempt, now: datetime) -> HeldAttempt:
    return HeldAttempt(
        fence=Fence(message.fence),
        task_id=TaskId(message.task_id),
        attempt=message.attempt,
        state=_attempt_state(message.state),
        report=report(message.unacked_report, now) if message.HasField("unacked_report") else None,
    )


def _outcome(message: tasks_pb2.Outcome) -> Outcome:
    return Outcome(
        # Unknown when it is from a newer agent: that it ended is certain, how is not.
        kind=_KINDS.get(message.kind, OutcomeKind.SUPERVISOR_LOST),
        exit_code=message.exit_code if message.HasField("exit_code") else None,
        signal=max(0, min(message.signal, 255)),
        message=_clean(message.message),
        cpu_seconds=max(0.0, min(duration_seconds(message, "cpu_time") or 0.0, _MAX_CPU_SECONDS)),
        max_memory_bytes=min(message.max_memory_bytes, 2**62),
    )


def _log_end(message: wire.LogEnd) -> LogEnd:
    if message.stream not in (1, 2) or message.total_bytes < 0:
        raise InvalidRequest([Violation(field="logs", description="name an unknown stream, or a negative length")])
    return LogEnd(
        stream=LogStream(message.stream),
        total_bytes=message.total_bytes,
        sha256=message.sha256,
        gaps=tuple(_gap(gap) for gap in message.gaps),
    )


def _gap(message: tasks_pb2.LogGap) -> LogGap:
    return LogGap(start=message.start_offset, end=message.end_offset, reason=_clean(message.reason))


def _attempt_state(number: int) -> AttemptState:
    state = _STATES.get(number)
    if state is None:
        raise InvalidRequest([Violation(field="state", description=f"is {number}, which is unknown")])
    return state


def _ago(message: wire.AttemptReport, field: str, now: datetime) -> datetime | None:
    if not message.HasField(field):
        return None
    span = getattr(message, field)
    micros = span.seconds * 1_000_000 + span.nanos // 1000
    return now - timedelta(microseconds=max(0, min(micros, _MAX_AGE_MICROS)))


def _bounded(pairs: Mapping[str, str]) -> dict[str, str]:
    """What an agent says of itself, as much of it as a row should hold."""
    return {_clean(key): _clean(value) for key, value in list(pairs.items())[:MAX_LABELS]}


def _clean(text: str) -> str:
    return text.replace("\0", "")[:MAX_MESSAGE_CHARS] if text else text
