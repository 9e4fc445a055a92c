"""What an agent and a server say to each other, as values, and how two views of the same attempts are made one.

A session begins with the agent's complete list; `reconcile` holds it against what is stored. Heartbeats do the same in
small. Every order can be repeated and every report may come twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum

from styx_server.core.placement.capacity import Capacity
from styx_server.core.states import AttemptState, Desired, OutcomeKind
from styx_server.core.task import AgentId, Fence, Outcome, TaskId


class LogStream(IntEnum):
    """The streams of output."""

    STDOUT = 1
    STDERR = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class LogGap:
    """A range of output, in bytes, that was not kept."""

    start: int
    end: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEnd:
    """All there will ever be of a stream. The digest covers the bytes outside of the gaps."""

    stream: LogStream
    total_bytes: int
    sha256: bytes
    gaps: tuple[LogGap, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptReport:
    """What happened to an attempt, with times set right by the server's clock."""

    fence: Fence
    task_id: TaskId
    state: AttemptState
    start_time: datetime | None = None
    end_time: datetime | None = None
    outcome: Outcome | None = None
    logs: tuple[LogEnd, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldAttempt:
    """An attempt that the agent says it holds."""

    fence: Fence
    task_id: TaskId
    attempt: int
    state: AttemptState
    report: AttemptReport | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """Who an agent is, what it has, and everything that it holds.

    Attributes:
        queues: it keeps attempts until there is room for them.
    """

    agent_id: AgentId
    boot_id: str
    supervisor_id: str
    last_epoch: int
    version: str
    capacity: Capacity
    labels: Mapping[str, str]
    facts: Mapping[str, str]
    isolation: str
    held: tuple[HeldAttempt, ...]
    draining: bool
    queues: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PreemptionNotice:
    """The provider takes an agent's machine back.

    Attributes:
        left_seconds: until the machine ends, from when this was heard.
        source: who said so, in the agent's words.
    """

    left_seconds: float
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """An order to start an attempt.

    Attributes:
        body: the spec, unread.
        alternative: which of the spec's alternatives the agent is to take as what the task needs; None: it has none.
    """

    fence: Fence
    task_id: TaskId
    attempt: int
    namespace: str
    body: bytes
    gpu_indexes: tuple[int, ...]
    alternative: int | None = None


class StopCause(IntEnum):
    """Why an attempt is stopped."""

    CANCEL = 1
    PREEMPT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class StopOrder:
    """An order to stop an attempt. Without a grace the spec's own counts."""

    fence: Fence
    cause: StopCause = StopCause.CANCEL
    grace_seconds: float | None = None


class Action(IntEnum):
    """What an agent is to do with an attempt that it holds."""

    CONTINUE = 1
    STOP = 2
    FORGET = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What to do with one held attempt; `logs` says from where to send each stream again."""

    fence: Fence
    action: Action
    start_acked: bool = False
    end_acked: bool = False
    stop: StopOrder | None = None
    logs: tuple[tuple[LogStream, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveAttempt:
    """A live attempt as stored.

    Attributes:
        preempt: its machine goes away, so it is to stop and run elsewhere.
    """

    task_id: TaskId
    fence: Fence
    attempt: int
    state: AttemptState
    desired: Desired = Desired.RUN
    stop_grace_seconds: float | None = None
    preempt: bool = False

    def stop_order(self) -> StopOrder | None:
        """The order to stop it, if it is to stop. What a person asked for comes before what a machine needs."""
        if self.desired is Desired.STOP:
            return StopOrder(fence=self.fence, grace_seconds=self.stop_grace_seconds)
        return StopOrder(fence=self.fence, cause=StopCause.PREEMPT) if self.preempt else None

    @property
    def unsent(self) -> bool:
        """Whether it may still have to be sent to its agent, or to be withdrawn."""
        return self.state is AttemptState.ASSIGNED


@dataclass(frozen=True, slots=True, kw_only=True)
class EndedAttempt:
    """An attempt of this agent that is stored as over."""

    task_id: TaskId
    fence: Fence
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciliation:
    """The outcome of holding two views against each other.

    Attributes:
        verdicts: one for each attempt that the agent holds.
        vanished: started attempts that the agent does not hold, and how each must have ended. To be believed only
            when the agent is known to have got its Welcome: a Hello may be acted on after its agent gave it up.
    """

    verdicts: tuple[Verdict, ...]
    vanished: tuple[tuple[LiveAttempt, Outcome], ...]


def reconcile(
    held: Sequence[HeldAttempt],
    live: Iterable[LiveAttempt],
    ended: Iterable[EndedAttempt],
    positions: Mapping[Fence, tuple[tuple[LogStream, int], ...]],
    *,
    same_boot: bool,
) -> Reconciliation:
    """Makes one view of what an agent holds and what is stored for it.

    An assignment that the agent has not got is left alone: it is sent again, or withdrawn.

    Args:
        held: everything that the agent holds.
        live: everything that is stored as live on it.
        ended: those of `held` that are stored as over on it.
        positions: how far the output of each held attempt is stored.
        same_boot: whether the machine has not restarted since its last session.
    """
    live_by_fence = {attempt.fence: attempt for attempt in live}
    ended_fences = {attempt.fence for attempt in ended}
    verdicts = tuple(_judge(item, live_by_fence, ended_fences, positions.get(item.fence, ())) for item in held)
    held_fences = {item.fence for item in held}
    vanished = tuple(
        (attempt, _fate(same_boot))
        for attempt in live_by_fence.values()
        if attempt.fence not in held_fences and not attempt.unsent
    )
    return Reconciliation(verdicts=verdicts, vanished=vanished)


def _judge(
    held: HeldAttempt,
    live: Mapping[Fence, LiveAttempt],
    ended: set[Fence],
    logs: tuple[tuple[LogStream, int], ...],
) -> Verdict:
    stored = live.get(held.fence)
    if stored is not None:
        started = stored.state > AttemptState.ASSIGNED
        stop = stored.stop_order()
        if stop is not None and held.state is not AttemptState.ENDED:
            return Verdict(fence=held.fence, action=Action.STOP, start_acked=started, stop=stop, logs=logs)
        return Verdict(fence=held.fence, action=Action.CONTINUE, start_acked=started, logs=logs)
    if held.fence in ended and held.state is AttemptState.ENDED:
        return Verdict(fence=held.fence, action=Action.CONTINUE, start_acked=True, end_acked=True, logs=logs)
    # Stored as over while it lives there, or never heard of: it must not go on.
    return Verdict(fence=held.fence, action=Action.FORGET)


def _fate(same_boot: bool) -> Outcome:
    if not same_boot:
        return Outcome(kind=OutcomeKind.HOST_REBOOTED, message="the machine restarted under it")
    return Outcome(kind=OutcomeKind.SUPERVISOR_LOST, message="the agent came back without it")
