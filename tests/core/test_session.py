"""How what an agent holds and what is stored for it become one view: every combination of the two."""

from __future__ import annotations

from itertools import product

import pytest

from styx_server.core.session import (
    Action,
    EndedAttempt,
    HeldAttempt,
    LiveAttempt,
    LogStream,
    Reconciliation,
    Verdict,
    reconcile,
)
from styx_server.core.states import LIVE_ATTEMPT_STATES, AttemptState, Desired, OutcomeKind
from styx_server.core.task import Fence, TaskId

FENCE = Fence(7)
HELD_STATES = [None, *(state for state in AttemptState if state is not AttemptState.NONE)]
STORED = [None, "ended", *product(LIVE_ATTEMPT_STATES, Desired)]


def run(held: AttemptState | None, stored: object, *, same_boot: bool = True) -> Reconciliation:
    items = [] if held is None else [HeldAttempt(fence=FENCE, task_id=TaskId(1), attempt=1, state=held)]
    live = []
    if isinstance(stored, tuple):
        state, desired = stored
        live = [
            LiveAttempt(task_id=TaskId(1), fence=FENCE, attempt=1, state=state, desired=desired, stop_grace_seconds=2.5)
        ]
    ended = [EndedAttempt(task_id=TaskId(1), fence=FENCE, attempt=1)] if stored == "ended" else []
    return reconcile(items, live, ended, {FENCE: ((LogStream.STDOUT, 5),)}, same_boot=same_boot)


@pytest.mark.parametrize("stored", STORED, ids=str)
def test_every_combination_of_held_and_stored(stored: object) -> None:
    for held, same_boot in product(HELD_STATES, (True, False)):
        check_combination(held, stored, same_boot=same_boot)


def check_combination(held: AttemptState | None, stored: object, *, same_boot: bool) -> None:
    found = run(held, stored, same_boot=same_boot)
    assert len(found.verdicts) == (held is not None)
    live = isinstance(stored, tuple)
    started = isinstance(stored, tuple) and stored[0] is not AttemptState.ASSIGNED
    assert len(found.vanished) == (started and held is None)
    if held is None:
        return
    (verdict,) = found.verdicts
    assert verdict.fence == FENCE
    if live:
        check_live(verdict, held, stored)
    elif stored == "ended" and held is AttemptState.ENDED:
        assert (verdict.action, verdict.end_acked) == (Action.CONTINUE, True)
    else:
        assert (verdict.action, verdict.logs, verdict.start_acked) == (Action.FORGET, (), False)


def check_live(verdict: Verdict, held: AttemptState, stored: object) -> None:
    assert isinstance(stored, tuple)
    state, desired = stored
    stops = desired is Desired.STOP and held is not AttemptState.ENDED
    assert verdict.action is (Action.STOP if stops else Action.CONTINUE)
    assert (verdict.stop is not None) == stops
    assert verdict.stop is None or verdict.stop.grace_seconds == 2.5
    # Only a start that is stored may be acked: an attempt lives under the short window until then.
    assert verdict.start_acked == (state is not AttemptState.ASSIGNED)
    assert not verdict.end_acked
    assert verdict.logs == ((LogStream.STDOUT, 5),)


@pytest.mark.parametrize(
    ("state", "same_boot", "kind"),
    [
        (AttemptState.PREPARING, True, OutcomeKind.SUPERVISOR_LOST),
        (AttemptState.RUNNING, True, OutcomeKind.SUPERVISOR_LOST),
        (AttemptState.STOPPING, True, OutcomeKind.SUPERVISOR_LOST),
        (AttemptState.PREPARING, False, OutcomeKind.HOST_REBOOTED),
        (AttemptState.RUNNING, False, OutcomeKind.HOST_REBOOTED),
        (AttemptState.STOPPING, False, OutcomeKind.HOST_REBOOTED),
    ],
)
def test_an_attempt_that_vanished_ends_by_what_was_known_of_it(
    state: AttemptState, same_boot: bool, kind: OutcomeKind
) -> None:
    ((attempt, outcome),) = run(None, (state, Desired.RUN), same_boot=same_boot).vanished
    assert (attempt.fence, outcome.kind) == (FENCE, kind)
    assert outcome.message


@pytest.mark.parametrize("stored", [item for item in STORED if isinstance(item, tuple)], ids=str)
def test_an_assignment_that_never_arrived_is_left_to_be_sent_again(stored: tuple[AttemptState, Desired]) -> None:
    for same_boot in (True, False):
        left_alone = run(None, stored, same_boot=same_boot).vanished == ()
        assert left_alone == (stored[0] is AttemptState.ASSIGNED)


def test_each_held_attempt_gets_one_verdict_in_its_place() -> None:
    held = [
        HeldAttempt(fence=Fence(number), task_id=TaskId(number), attempt=1, state=AttemptState.RUNNING)
        for number in (3, 1, 2)
    ]
    live = [
        LiveAttempt(
            task_id=TaskId(number),
            fence=Fence(number),
            attempt=1,
            state=AttemptState.RUNNING,
            desired=Desired.RUN,
            stop_grace_seconds=None,
        )
        for number in (2, 4)
    ]
    found = reconcile(held, live, [], {}, same_boot=True)
    assert [(verdict.fence, verdict.action) for verdict in found.verdicts] == [
        (3, Action.FORGET),
        (1, Action.FORGET),
        (2, Action.CONTINUE),
    ]
    assert [attempt.fence for attempt, _ in found.vanished] == [4]
