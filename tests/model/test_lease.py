"""Attempt 2 never runs beside attempt 1: in every state that the rules allow, and not without any one of them."""

from __future__ import annotations

from dataclasses import fields

import pytest

from styx_agent.supervisor.rules import Lease, StartOrder, lease_stop
from styx_server.core.lease import USUAL_TERMS
from styx_server.core.states import AttemptState
from tests.model.lease import Rules
from tests.model.search import search

DRIFT = 0.024
MINUTE, HOUR, DAY = 60, 3600, 86400
SPANS = (MINUTE, 61, 5 * MINUTE, 15 * MINUTE, HOUR, 12 * HOUR, DAY, 7 * DAY, 30 * DAY)

# They keep the books true (a start is acked only when it is stored under the session it came through), but the windows
# hold without them.
SPARE = {"epoch_on_starts", "start_needs_assigned"}
NEEDED = [field.name for field in fields(Rules) if field.default is True and field.name not in SPARE]


def test_no_two_attempts_ever_run_at_once() -> None:
    finding = search(Rules())
    assert not finding.story, str(finding)
    assert finding.states > 10_000


@pytest.mark.parametrize("rule", NEEDED)
def test_each_rule_is_needed(rule: str) -> None:
    assert search(Rules(**{rule: False})).story


@pytest.mark.parametrize("margin", ["start_margin", "timeout_margin"])
def test_margins_are_as_small_as_drift_allows(margin: str) -> None:
    # In the model one clock loses a tick and another gains one.
    assert search(Rules(**{margin: 1})).story


def test_the_windows_hold_without_the_spare_rules() -> None:
    finding = search(Rules(**dict.fromkeys(SPARE, False)))
    assert not finding.story, str(finding)


def overlap_seconds(state: AttemptState, span_seconds: float, drift: float) -> float:
    """How long, at worst, attempt 2 could run beside attempt 1: the agent's clock slow, the reaper's fast."""
    recorded = state is not AttemptState.ASSIGNED
    lease = Lease(sent_micros=0, window_micros=round(USUAL_TERMS.start_window_seconds * 1e6))
    order = StartOrder(
        fence=1, task_id=1, attempt=1, argv=["true"], disconnect_micros=round(span_seconds * 1e6), grace_micros=0
    )
    stop = lease_stop(lease, recorded=recorded, order=order)
    patience = USUAL_TERMS.patience_seconds(state, span_seconds)
    assert stop is not None
    assert patience is not None
    return stop.kill_micros / 1e6 * (1 + drift) - patience / (1 + drift)


@pytest.mark.parametrize("span_seconds", SPANS)
@pytest.mark.parametrize("state", [AttemptState.ASSIGNED, AttemptState.RUNNING, AttemptState.STOPPING])
def test_the_margins_of_the_code_cover_the_drift_that_is_promised(state: AttemptState, span_seconds: int) -> None:
    assert overlap_seconds(state, span_seconds, DRIFT) < 0


def test_more_drift_than_promised_would_not_be_covered() -> None:
    assert overlap_seconds(AttemptState.RUNNING, DAY, DRIFT + 0.002) > 0


def test_nothing_starts_once_the_short_window_is_over() -> None:
    lease = Lease(sent_micros=0, window_micros=round(USUAL_TERMS.start_window_seconds * 1e6))
    assert not lease.may_start(round(USUAL_TERMS.start_window_seconds * 1e6))
    patience = USUAL_TERMS.patience_seconds(AttemptState.ASSIGNED, None)
    assert patience is not None
    assert patience / (1 + DRIFT) > USUAL_TERMS.start_window_seconds * (1 + DRIFT)
