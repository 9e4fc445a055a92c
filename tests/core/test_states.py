"""The table of steps: all pairs of states, all actors, and what the design says about them."""

from __future__ import annotations

from itertools import product

import pytest

from styx_server.core.outcome import after_attempt
from styx_server.core.states import (
    ATTEMPT_TRANSITIONS,
    LIVE_ATTEMPT_STATES,
    TASK_TRANSITIONS,
    Actor,
    AttemptState,
    Desired,
    OutcomeKind,
    TaskState,
    may,
    may_attempt,
)
from styx_server.core.task import RetryPolicy
from tests.support.builders import NOW, an_outcome, some_facts

ENDS = [state for state in TaskState if state.ended]


@pytest.mark.parametrize("actor", Actor)
def test_a_task_takes_a_step_exactly_when_the_table_names_its_actor(actor: Actor) -> None:
    for before, after in product(TaskState, TaskState):
        listed = actor in TASK_TRANSITIONS.get((before, after), frozenset())
        assert may(actor, before, after) == (listed or before == after)


@pytest.mark.parametrize("actor", Actor)
def test_an_attempt_takes_a_step_exactly_when_the_table_names_its_actor(actor: Actor) -> None:
    for before, after in product(AttemptState, AttemptState):
        listed = actor in ATTEMPT_TRANSITIONS.get((before, after), frozenset())
        assert may_attempt(actor, before, after) == (listed or before == after)


def test_only_a_person_opens_an_ended_task_and_never_one_that_succeeded() -> None:
    for before, after in product(ENDS, TaskState):
        actors = TASK_TRANSITIONS.get((before, after), frozenset())
        opens = after is TaskState.PENDING and before is not TaskState.SUCCEEDED
        assert actors == (frozenset({Actor.USER}) if opens else frozenset())


def test_a_cancelling_task_can_only_become_cancelled_and_not_by_the_user() -> None:
    steps = {after: actors for (before, after), actors in TASK_TRANSITIONS.items() if before is TaskState.CANCELLING}
    assert list(steps) == [TaskState.CANCELLED]
    assert Actor.USER not in steps[TaskState.CANCELLED]


def test_a_running_task_is_never_cancelled_in_one_step() -> None:
    assert (TaskState.RUNNING, TaskState.CANCELLED) not in TASK_TRANSITIONS


def test_the_scheduler_moves_no_task_and_starts_every_attempt() -> None:
    assert all(Actor.SCHEDULER not in actors for actors in TASK_TRANSITIONS.values())
    started = {pair for pair, actors in ATTEMPT_TRANSITIONS.items() if Actor.SCHEDULER in actors}
    assert started == {(AttemptState.NONE, AttemptState.ASSIGNED), (AttemptState.ENDED, AttemptState.ASSIGNED)}


def test_attempts_never_go_back_but_for_the_next_attempt() -> None:
    back = {(before, after) for before, after in ATTEMPT_TRANSITIONS if after <= before}
    assert back == {(AttemptState.ENDED, AttemptState.ASSIGNED)}


def test_every_live_attempt_can_end_and_the_reaper_may_end_it() -> None:
    for state in LIVE_ATTEMPT_STATES:
        assert Actor.REAPER in ATTEMPT_TRANSITIONS[state, AttemptState.ENDED]
        assert Actor.AGENT in ATTEMPT_TRANSITIONS[state, AttemptState.ENDED]


def test_every_state_can_be_reached_and_every_unended_one_left() -> None:
    reached = {after for _, after in TASK_TRANSITIONS} | {TaskState.PENDING}
    left = {before for before, _ in TASK_TRANSITIONS}
    assert reached == set(TaskState)
    assert {state for state in TaskState if not state.ended} <= left


def test_ended_and_live_say_what_the_numbers_say() -> None:
    assert [state.name for state in TaskState if state.ended] == [
        "SUCCEEDED",
        "FAILED",
        "CANCELLED",
        "TIMED_OUT",
        "LOST",
    ]
    assert [state.name for state in AttemptState if state.live] == ["ASSIGNED", "PREPARING", "RUNNING", "STOPPING"]


@pytest.mark.parametrize(
    ("state", "desired"),
    [
        (TaskState.PENDING, Desired.RUN),
        (TaskState.RUNNING, Desired.RUN),
        (TaskState.CANCELLING, Desired.STOP),
    ],
)
def test_whatever_an_end_leads_to_is_a_legal_step_of_the_agent(state: TaskState, desired: Desired) -> None:
    for kind, at_most_once, retries in product(OutcomeKind, (False, True), (0, 3)):
        policy = RetryPolicy(max_retries=retries)
        task = some_facts(state=state, desired=desired, at_most_once=at_most_once, retry=policy)
        after = after_attempt(task, an_outcome(kind), NOW, 0.5)
        assert may(Actor.AGENT, state, after.state), kind
