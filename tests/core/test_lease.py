"""When silence means death: windows, margins, and an observer that never trusts what it did not see."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from styx_server.core.lease import (
    USUAL_TERMS,
    LeaseTerms,
    LeaseWatch,
)
from styx_server.core.states import AttemptState
from styx_server.core.task import AgentId

A1, A2 = AgentId(1), AgentId(2)
LOOK = 5.0


def _watched(leases: list[dict[AgentId, int]]) -> LeaseWatch:
    watch = LeaseWatch()
    for step, lease in enumerate(leases):
        watch.observe(lease, step * LOOK)
    return watch


@pytest.mark.parametrize(
    ("state", "disconnect", "patience"),
    [
        (AttemptState.ASSIGNED, 900.0, 31.0),
        (AttemptState.ASSIGNED, None, 31.0),
        (AttemptState.RUNNING, 900.0, 955.0),
        (AttemptState.STOPPING, 60.0, 73.0),
        (AttemptState.PREPARING, None, None),
    ],
)
def test_patience_is_the_window_and_its_margin(
    state: AttemptState, disconnect: float | None, patience: float | None
) -> None:
    assert USUAL_TERMS.patience_seconds(state, disconnect) == patience


@settings(deadline=None)
@given(windows=st.floats(1, 1e6), drift=st.floats(0, 0.024), scale=st.floats(0.05, 1))
def test_the_margin_covers_clocks_that_drift_apart(windows: float, drift: float, scale: float) -> None:
    terms = LeaseTerms.scaled(scale)
    window = windows * terms.start_window_seconds
    # The supervisor stops at window on a slow clock; we count window + margin on a fast one.
    assert (window + terms.margin_seconds(window)) / (1 + drift) >= window * (1 + drift)


def test_a_lease_that_moves_is_never_silent() -> None:
    watch = _watched([{A1: seq} for seq in range(20)])
    assert watch.silent(19 * LOOK, 1.0) == {}


def test_a_lease_that_stands_is_silent_for_as_long_as_it_was_seen_to() -> None:
    watch = _watched([{A1: 1}, {A1: 2}, {A1: 2}, {A1: 2}])
    assert watch.silent(20.0, 10.0) == {A1: (2, 15.0)}
    assert watch.silent(20.0, 16.0) == {}


def test_an_observer_starts_from_zero_whatever_it_finds() -> None:
    watch = LeaseWatch()
    watch.observe({A1: 7}, 1e6)
    assert watch.silent(1e6 + 1, 2.0) == {}


def test_an_observer_that_slept_starts_from_zero() -> None:
    watch = _watched([{A1: 1}, {A1: 1}])
    later = LOOK + USUAL_TERMS.longest_gap_seconds + 1
    watch.observe({A1: 1}, later)
    assert watch.silent(later, 1.0) == {}


def test_a_failed_look_starts_from_zero() -> None:
    watch = _watched([{A1: 1}, {A1: 1}])
    watch.forget()
    watch.observe({A1: 1}, 2 * LOOK)
    assert watch.silent(3 * LOOK, LOOK + 1) == {}


def test_an_agent_that_came_back_with_work_is_seen_afresh() -> None:
    watch = _watched([{A1: 1, A2: 1}, {A2: 2}, {A1: 1, A2: 3}])
    assert watch.silent(2 * LOOK, LOOK) == {}


def _fleet(total: int, silent: int, seconds: float) -> tuple[LeaseWatch, float]:
    watch, now = LeaseWatch(), 0.0
    while now <= seconds:
        step = int(now)
        watch.observe({AgentId(n): 1 if n <= silent else step for n in range(1, total + 1)}, now)
        now += LOOK
    return watch, now - LOOK


@pytest.mark.parametrize(
    ("total", "silent", "outage"), [(1, 1, False), (4, 4, False), (10, 5, False), (10, 6, True), (100, 40, False)]
)
def test_many_silent_at_once_are_our_outage(total: int, silent: int, outage: bool) -> None:
    watch, now = _fleet(total, silent, USUAL_TERMS.unreachable_seconds + LOOK)
    assert watch.is_outage(now) is outage


def test_an_outage_is_not_believed_for_ever() -> None:
    watch, now = _fleet(10, 10, USUAL_TERMS.mass_hold_seconds + 2 * LOOK)
    assert not watch.is_outage(now)
