"""What follows when an attempt ends: every kind of end, every policy, and budgets that hold whatever comes."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from styx_server.core.outcome import INFRA_BUDGET, WELL_ENDED, AfterAttempt, after_attempt, backoff_seconds, describe
from styx_server.core.states import Cause, Desired, OutcomeKind, Reason, TaskState
from styx_server.core.task import Outcome, RetryPolicy, TaskFacts
from tests.support.builders import NOW, an_outcome, exited, some_facts

KINDS = list(OutcomeKind)
USER_FAILURES = {OutcomeKind.EXITED, OutcomeKind.SIGNALED, OutcomeKind.OOM_KILLED, OutcomeKind.START_FAILED}
INFRA = {OutcomeKind.REJECTED, OutcomeKind.HOST_REBOOTED, OutcomeKind.SUPERVISOR_LOST, OutcomeKind.LOST}
NEVER_RAN = {OutcomeKind.REJECTED, OutcomeKind.RETURNED}


def follow(task: TaskFacts, outcome: Outcome, jitter: float = 0.5) -> AfterAttempt:
    return after_attempt(task, outcome, NOW, jitter)


FIRST_ATTEMPT = {
    OutcomeKind.EXITED: (TaskState.FAILED, Reason.EXIT_CODE),
    OutcomeKind.SIGNALED: (TaskState.FAILED, Reason.SIGNAL),
    OutcomeKind.OOM_KILLED: (TaskState.FAILED, Reason.OUT_OF_MEMORY),
    OutcomeKind.START_FAILED: (TaskState.FAILED, Reason.START_FAILED),
    OutcomeKind.TIMED_OUT: (TaskState.TIMED_OUT, Reason.TIMEOUT),
    OutcomeKind.CANCELLED: (TaskState.PENDING, Reason.BACKOFF),
    OutcomeKind.PREEMPTED: (TaskState.PENDING, Reason.BACKOFF),
    OutcomeKind.REJECTED: (TaskState.PENDING, Reason.BACKOFF),
    OutcomeKind.HOST_REBOOTED: (TaskState.PENDING, Reason.BACKOFF),
    OutcomeKind.SUPERVISOR_LOST: (TaskState.PENDING, Reason.BACKOFF),
    OutcomeKind.LOST: (TaskState.PENDING, Reason.BACKOFF),
    OutcomeKind.RETURNED: (TaskState.PENDING, Reason.NONE),
}
AT_MOST_ONCE = {
    **FIRST_ATTEMPT,
    OutcomeKind.CANCELLED: (TaskState.LOST, Reason.ATTEMPT_LOST),
    OutcomeKind.PREEMPTED: (TaskState.LOST, Reason.ATTEMPT_LOST),
    OutcomeKind.HOST_REBOOTED: (TaskState.LOST, Reason.ATTEMPT_LOST),
    OutcomeKind.SUPERVISOR_LOST: (TaskState.LOST, Reason.ATTEMPT_LOST),
    OutcomeKind.LOST: (TaskState.LOST, Reason.ATTEMPT_LOST),
}


@pytest.mark.parametrize("kind", KINDS)
def test_without_retries_each_kind_of_end_has_one_consequence(kind: OutcomeKind) -> None:
    after = follow(some_facts(), an_outcome(kind))
    assert (after.state, after.reason) == FIRST_ATTEMPT[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_at_most_once_waits_again_only_after_what_never_ran(kind: OutcomeKind) -> None:
    after = follow(some_facts(at_most_once=True), an_outcome(kind))
    assert (after.state, after.reason) == AT_MOST_ONCE[kind]
    assert (after.state is TaskState.PENDING) == (kind in NEVER_RAN)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at_most_once", [False, True])
def test_whoever_asked_for_the_stop_gets_cancelled_whatever_the_end(kind: OutcomeKind, at_most_once: bool) -> None:
    task = some_facts(
        state=TaskState.CANCELLING,
        desired=Desired.STOP,
        at_most_once=at_most_once,
        retry=RetryPolicy(max_retries=5),
    )
    after = follow(task, an_outcome(kind))
    assert (after.state, after.reason, after.next_cause) == (TaskState.CANCELLED, Reason.CANCEL_REQUESTED, None)


@pytest.mark.parametrize("at_most_once", [False, True])
def test_a_good_end_of_what_nobody_stopped_depends_on_nothing_else(at_most_once: bool) -> None:
    after = follow(some_facts(at_most_once=at_most_once, failures=2, infra_failures=1, preemptions=3), exited(0))
    assert after == replace(WELL_ENDED, failures=2, infra_failures=1, preemptions=3)


def test_exit_code_zero_is_a_success_without_a_message() -> None:
    after = follow(some_facts(), exited(0))
    assert (after.state, after.reason, after.message, after.exit_code) == (TaskState.SUCCEEDED, Reason.NONE, "", 0)
    assert (after.failures, after.next_cause) == (0, None)


def test_the_last_failure_counts_and_ends_the_task() -> None:
    task = some_facts(failures=2, retry=RetryPolicy(max_retries=2))
    after = follow(task, exited(9))
    assert (after.state, after.failures, after.exit_code) == (TaskState.FAILED, 3, 9)


@pytest.mark.parametrize("kind", sorted(USER_FAILURES))
def test_every_failure_of_the_command_is_retried_while_the_budget_lasts(kind: OutcomeKind) -> None:
    task = some_facts(failures=1, retry=RetryPolicy(max_retries=2))
    after = follow(task, an_outcome(kind))
    assert (after.state, after.failures, after.next_cause) == (TaskState.PENDING, 2, Cause.RETRY)
    assert after.infra_failures == 0


@pytest.mark.parametrize(("code", "retried"), [(1, True), (75, True), (2, False), (None, False)])
def test_only_the_named_exit_codes_are_retried(code: int | None, retried: bool) -> None:
    task = some_facts(retry=RetryPolicy(max_retries=1, on_exit_codes=(1, 75)))
    outcome = Outcome(kind=OutcomeKind.SIGNALED, signal=9) if code is None else exited(code)
    assert (follow(task, outcome).state is TaskState.PENDING) == retried


def test_a_timeout_is_never_retried() -> None:
    task = some_facts(retry=RetryPolicy(max_retries=5))
    assert follow(task, an_outcome(OutcomeKind.TIMED_OUT)).state is TaskState.TIMED_OUT


@pytest.mark.parametrize("kind", sorted(INFRA))
def test_a_machines_fault_spends_its_own_budget_only(kind: OutcomeKind) -> None:
    after = follow(some_facts(failures=3, preemptions=4, retry=RetryPolicy(max_retries=3)), an_outcome(kind))
    assert (after.failures, after.infra_failures, after.preemptions) == (3, 1, 4)
    assert after.next_cause is (Cause.REJECTED if kind is OutcomeKind.REJECTED else Cause.LOST)


@pytest.mark.parametrize("kind", sorted(INFRA))
def test_the_budget_of_the_machines_ends_in_a_hold(kind: OutcomeKind) -> None:
    before = follow(some_facts(infra_failures=INFRA_BUDGET - 1), an_outcome(kind))
    assert (before.held, before.reason) == (False, Reason.BACKOFF)
    after = follow(some_facts(infra_failures=INFRA_BUDGET), an_outcome(kind))
    assert (after.state, after.held, after.reason, after.not_before) == (TaskState.PENDING, True, Reason.HELD, None)
    assert "styx retry" in after.message


def test_a_preemption_waits_for_nothing_and_spends_only_its_own_count() -> None:
    after = follow(some_facts(preemptions=1000), an_outcome(OutcomeKind.PREEMPTED))
    assert (after.preemptions, after.infra_failures, after.failures) == (1001, 0, 0)
    assert (after.not_before, after.next_cause) == (NOW, Cause.PREEMPTED)


@pytest.mark.parametrize(
    ("failures", "base"), [(1, 1.0), (2, 2.0), (3, 4.0), (6, 32.0), (9, 256.0), (10, 300.0), (1000, 300.0)]
)
def test_waits_double_up_to_the_cap_and_spread_over_their_upper_half(failures: int, base: float) -> None:
    policy = RetryPolicy()
    assert backoff_seconds(policy, failures, 0.0) == base / 2
    assert backoff_seconds(policy, failures, 1.0) == base


def test_a_retry_starts_when_its_wait_is_over() -> None:
    task = some_facts(retry=RetryPolicy(max_retries=1, backoff_seconds=10))
    assert follow(task, exited(1), jitter=0.0).not_before == NOW + timedelta(seconds=5)


def test_the_agents_own_words_are_passed_on() -> None:
    assert describe(exited(3)) == "the command exited with code 3"
    assert describe(Outcome(kind=OutcomeKind.SIGNALED, signal=9)) == "the command was ended by signal 9"
    assert describe(Outcome(kind=OutcomeKind.OOM_KILLED)) == "oom killed"
    assert describe(exited(3, message="no such file")) == "no such file"


policies = st.builds(
    RetryPolicy,
    max_retries=st.integers(0, 6),
    backoff_seconds=st.floats(0, 1e6),
    max_backoff_seconds=st.floats(0, 1e6),
    on_exit_codes=st.lists(st.integers(0, 3), max_size=2).map(tuple),
)
outcomes = st.one_of(st.builds(exited, st.integers(0, 3)), st.sampled_from(KINDS).map(an_outcome))


@given(policy=policies, at_most_once=st.booleans(), ends=st.lists(outcomes, max_size=30), jitter=st.floats(0, 0.999))
def test_no_budget_is_ever_exceeded(
    policy: RetryPolicy, at_most_once: bool, ends: list[Outcome], jitter: float
) -> None:
    task = some_facts(retry=policy, at_most_once=at_most_once)
    spent = {"failures": 0, "infra": 0}
    for outcome in ends:
        after = follow(task, outcome, jitter)
        if after.next_cause is None or after.held:
            break
        assert not (at_most_once and outcome.kind not in NEVER_RAN)
        spent["failures"] += outcome.kind in USER_FAILURES
        spent["infra"] += outcome.kind in INFRA
        assert spent["failures"] <= policy.max_retries
        assert spent["infra"] <= INFRA_BUDGET
        if outcome.kind is OutcomeKind.RETURNED:  # counts as nothing, so it waits for nothing
            continue
        assert after.not_before is not None
        assert NOW <= after.not_before <= NOW + timedelta(seconds=max(policy.max_backoff_seconds, 30.0))
        task = some_facts(
            retry=policy,
            at_most_once=at_most_once,
            failures=after.failures,
            infra_failures=after.infra_failures,
            preemptions=after.preemptions,
        )


@given(
    outcome=outcomes,
    failures=st.integers(0, 1001),
    infra=st.integers(0, 10),
    stop=st.booleans(),
    policy=policies,
    jitter=st.floats(0, 0.999),
)
def test_a_next_attempt_is_announced_exactly_when_the_task_waits(
    outcome: Outcome, failures: int, infra: int, stop: bool, policy: RetryPolicy, jitter: float
) -> None:
    desired = Desired.STOP if stop else Desired.RUN
    after = follow(some_facts(failures=failures, infra_failures=infra, desired=desired, retry=policy), outcome, jitter)
    assert (after.state is TaskState.PENDING) == (after.next_cause is not None)
    assert after.state.ended or after.state is TaskState.PENDING
    assert after.held == (after.reason is Reason.HELD)
    waits = outcome.kind is not OutcomeKind.RETURNED and not after.held
    assert (after.not_before is not None) == (after.next_cause is not None and waits)
    assert after.failures >= failures
    assert after.infra_failures >= infra
