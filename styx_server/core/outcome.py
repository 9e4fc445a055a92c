"""What follows when an attempt ends: the task's end, or another attempt and when.

Three budgets are kept apart: the user's failures (`retry`), the infrastructure's (a machine was lost, an agent
refused), and preemption. Jitter comes in as a number.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final, assert_never

from styx_server.core.states import Cause, Desired, OutcomeKind, Reason, TaskState
from styx_server.core.task import Outcome, RetryPolicy, TaskFacts

INFRA_BUDGET: Final = 5
"""Attempts lost to machines before the task is held; Slurm's MaxBatchRequeue has the same default."""

INFRA_BACKOFF: Final = RetryPolicy(backoff_seconds=0.5, max_backoff_seconds=30.0)

_INFRA: Final = frozenset(
    {OutcomeKind.REJECTED, OutcomeKind.HOST_REBOOTED, OutcomeKind.SUPERVISOR_LOST, OutcomeKind.LOST}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class AfterAttempt:
    """The task after one of its attempts has ended.

    Attributes:
        failures, infra_failures, preemptions: how much of each budget is spent; None: as much as before.
        next_cause: why there will be another attempt; None when the task has ended.
        not_before: the next attempt does not start earlier.
        held: there may be no next attempt until a person says so.
    """

    state: TaskState
    reason: Reason
    message: str
    exit_code: int | None
    failures: int | None
    infra_failures: int | None
    preemptions: int | None
    next_cause: Cause | None = None
    not_before: datetime | None = None
    held: bool = False


WELL_ENDED: Final = AfterAttempt(
    state=TaskState.SUCCEEDED,
    reason=Reason.NONE,
    message="",
    exit_code=0,
    failures=None,
    infra_failures=None,
    preemptions=None,
)
"""What `after_attempt` decides of every task that ended well and that nobody wanted to stop, without a look at it."""


def ended_well(outcome: Outcome) -> bool:
    """Whether the command did what it was to do."""
    return outcome.kind is OutcomeKind.EXITED and outcome.exit_code == 0


def after_attempt(task: TaskFacts, outcome: Outcome, now: datetime, jitter: float) -> AfterAttempt:
    """Decides what becomes of `task` now that its attempt ended with `outcome`.

    Args:
        task: the task as stored, its attempt still live.
        outcome: how the attempt ended.
        now: the time from which a wait is counted.
        jitter: a fraction in [0, 1) that spreads the waits of many tasks that failed together.
    """
    if task.desired is Desired.STOP:
        return _end(task, TaskState.CANCELLED, Reason.CANCEL_REQUESTED, outcome)
    match outcome.kind:
        case OutcomeKind.EXITED if ended_well(outcome):
            return replace(
                WELL_ENDED,
                failures=task.failures,
                infra_failures=task.infra_failures,
                preemptions=task.preemptions,
            )
        case OutcomeKind.EXITED | OutcomeKind.SIGNALED | OutcomeKind.OOM_KILLED | OutcomeKind.START_FAILED:
            return _user_failure(task, outcome, now, jitter)
        case OutcomeKind.TIMED_OUT:
            return _end(task, TaskState.TIMED_OUT, Reason.TIMEOUT, outcome)
        case OutcomeKind.PREEMPTED | OutcomeKind.CANCELLED:
            # CANCELLED without a wish to stop: the machine took it away, which is preemption under another name.
            return _preempted(task, outcome, now)
        case OutcomeKind.RETURNED:
            return _returned(task)
        case OutcomeKind.REJECTED | OutcomeKind.HOST_REBOOTED | OutcomeKind.SUPERVISOR_LOST | OutcomeKind.LOST:
            return _infra_failure(task, outcome, now, jitter)
        case other:
            assert_never(other)


def backoff_seconds(policy: RetryPolicy, failures: int, jitter: float) -> float:
    """Wait before the retry that follows the `failures`-th failure: doubling, capped, spread over its upper half."""
    wait = min(policy.max_backoff_seconds, policy.backoff_seconds * 2.0 ** min(failures - 1, 32))
    return wait * (0.5 + jitter / 2)


def _user_failure(task: TaskFacts, outcome: Outcome, now: datetime, jitter: float) -> AfterAttempt:
    policy = task.retry
    covered = not policy.on_exit_codes or outcome.exit_code in policy.on_exit_codes
    if task.failures >= policy.max_retries or not covered or task.at_most_once:
        return _end(task, TaskState.FAILED, _failure_reason(outcome), outcome, failures=task.failures + 1)
    wait = backoff_seconds(policy, task.failures + 1, jitter)
    return AfterAttempt(
        state=TaskState.PENDING,
        reason=Reason.BACKOFF,
        message=f"retry {task.failures + 1} of {policy.max_retries} in {wait:.1f} s: {describe(outcome)}",
        exit_code=outcome.exit_code,
        failures=task.failures + 1,
        infra_failures=task.infra_failures,
        preemptions=task.preemptions,
        next_cause=Cause.RETRY,
        not_before=now + timedelta(seconds=wait),
    )


def _infra_failure(task: TaskFacts, outcome: Outcome, now: datetime, jitter: float) -> AfterAttempt:
    if task.at_most_once and outcome.kind is not OutcomeKind.REJECTED:
        return _end(task, TaskState.LOST, Reason.ATTEMPT_LOST, outcome)
    count = task.infra_failures + 1
    held = count > INFRA_BUDGET
    wait = backoff_seconds(INFRA_BACKOFF, count, jitter)
    message = (
        f"held: {count} attempts were lost to machines, the last one: {describe(outcome)}; "
        "look at the agents, then `styx retry` it"
        if held
        else f"tried again in {wait:.1f} s: {describe(outcome)}"
    )
    return AfterAttempt(
        state=TaskState.PENDING,
        reason=Reason.HELD if held else Reason.BACKOFF,
        message=message,
        exit_code=None,
        failures=task.failures,
        infra_failures=count,
        preemptions=task.preemptions,
        next_cause=Cause.REJECTED if outcome.kind is OutcomeKind.REJECTED else Cause.LOST,
        not_before=None if held else now + timedelta(seconds=wait),
        held=held,
    )


def _preempted(task: TaskFacts, outcome: Outcome, now: datetime) -> AfterAttempt:
    if task.at_most_once:
        return _end(task, TaskState.LOST, Reason.ATTEMPT_LOST, outcome)
    return AfterAttempt(
        state=TaskState.PENDING,
        reason=Reason.BACKOFF,
        message=f"waits for another machine: {describe(outcome)}",
        exit_code=None,
        failures=task.failures,
        infra_failures=task.infra_failures,
        preemptions=task.preemptions + 1,
        next_cause=Cause.PREEMPTED,
        not_before=now,
    )


def _returned(task: TaskFacts) -> AfterAttempt:
    """Nothing happened: the task waits again as before."""
    return AfterAttempt(
        state=TaskState.PENDING,
        reason=Reason.NONE,
        message="",
        exit_code=None,
        failures=task.failures,
        infra_failures=task.infra_failures,
        preemptions=task.preemptions,
        next_cause=Cause.RETURNED,
    )


def _end(
    task: TaskFacts, state: TaskState, reason: Reason, outcome: Outcome, failures: int | None = None
) -> AfterAttempt:
    return AfterAttempt(
        state=state,
        reason=reason,
        message=describe(outcome),
        exit_code=outcome.exit_code,
        failures=task.failures if failures is None else failures,
        infra_failures=task.infra_failures,
        preemptions=task.preemptions,
    )


def _failure_reason(outcome: Outcome) -> Reason:
    match outcome.kind:
        case OutcomeKind.SIGNALED:
            return Reason.SIGNAL
        case OutcomeKind.OOM_KILLED:
            return Reason.OUT_OF_MEMORY
        case OutcomeKind.START_FAILED:
            return Reason.START_FAILED
        case _:
            return Reason.EXIT_CODE


def describe(outcome: Outcome) -> str:
    """One sentence for people: the agent's own words where it had any."""
    if outcome.message:
        return outcome.message
    match outcome.kind:
        case OutcomeKind.EXITED:
            return f"the command exited with code {outcome.exit_code}"
        case OutcomeKind.SIGNALED:
            return f"the command was ended by signal {outcome.signal}"
        case kind:
            return kind.name.lower().replace("_", " ")
