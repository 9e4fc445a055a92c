"""The supervisor's decisions about time and outcome, as tables."""

from __future__ import annotations

import json
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from styx_agent.supervisor.rules import Ending, Lease, StartOrder, lease_stop, outcome_of

SECOND = 1_000_000
MINUTE = 60 * SECOND


def order(**fields: object) -> StartOrder:
    return StartOrder.from_message({"fence": 1, "task_id": 1, "attempt": 1, "argv": ["true"], **fields})


def exited(code: int) -> int:
    return code << 8


@pytest.mark.parametrize(
    ("ending", "kind", "code", "number"),
    [
        (Ending(status=exited(0)), "EXITED", 0, 0),
        (Ending(status=exited(7)), "EXITED", 7, 0),
        (Ending(status=exited(3), setup=True), "EXITED", 3, 0),
        (Ending(status=signal.SIGSEGV), "SIGNALED", None, signal.SIGSEGV),
        (Ending(status=signal.SIGKILL), "SIGNALED", None, signal.SIGKILL),
        (Ending(status=signal.SIGKILL, oom=True), "OOM_KILLED", None, signal.SIGKILL),
        (Ending(status=exited(1), oom=True), "EXITED", 1, 0),
        (Ending(status=exited(127), start_error="no such program"), "START_FAILED", None, 0),
        (Ending(status=None, start_error="no such directory"), "START_FAILED", None, 0),
        (Ending(status=None, cause="CANCEL"), "CANCELLED", None, 0),
        (Ending(status=exited(0), cause="CANCEL"), "CANCELLED", 0, 0),
        (Ending(status=signal.SIGTERM, cause="PREEMPT"), "PREEMPTED", None, signal.SIGTERM),
        (Ending(status=signal.SIGKILL, cause="TIMEOUT"), "TIMED_OUT", None, signal.SIGKILL),
        (Ending(status=signal.SIGKILL, cause="LEASE", oom=True), "LOST", None, signal.SIGKILL),
        (Ending(status=None, cause="LATE"), "REJECTED", None, 0),
    ],
)
def test_outcome_tells_what_happened(ending: Ending, kind: str, code: int | None, number: int) -> None:
    outcome = outcome_of(ending)
    assert (outcome.kind, outcome.exit_code, outcome.signal) == (kind, code, number)


def test_every_outcome_but_a_plain_exit_has_words() -> None:
    assert outcome_of(Ending(status=exited(3), setup=True)).message == "setup failed"
    assert outcome_of(Ending(status=signal.SIGSEGV)).message == "ended by SIGSEGV"
    assert outcome_of(Ending(status=60)).message == "ended by signal 60"
    assert outcome_of(Ending(status=exited(1))).message == ""


@given(
    sent=st.integers(0, 10**15),
    window=st.integers(1, 10**9),
    disconnect=st.integers(1, 10**12),
    grace=st.integers(0, 10**12),
    recorded=st.booleans(),
)
def test_a_lease_stop_is_over_before_the_lease(
    sent: int, window: int, disconnect: int, grace: int, recorded: bool
) -> None:
    lease = Lease(sent_micros=sent, window_micros=window)
    times = lease_stop(lease, recorded=recorded, order=order(disconnect_micros=disconnect, grace_micros=grace))
    assert times is not None
    span = disconnect if recorded else window
    assert sent < times.term_micros + 1
    assert times.term_micros <= times.kill_micros <= sent + span
    assert times.kill_micros - times.term_micros <= min(grace, 15 * SECOND, span // 4)


def test_an_unrecorded_start_lives_under_the_window_even_if_it_may_live_for_ever() -> None:
    lease = Lease(sent_micros=0, window_micros=20 * SECOND)
    for_ever = order(disconnect_micros=None)
    assert lease_stop(lease, recorded=True, order=for_ever) is None
    times = lease_stop(lease, recorded=False, order=for_ever)
    assert times is not None
    assert (times.term_micros, times.kill_micros) == (14 * SECOND, 19 * SECOND)


def test_a_recorded_start_has_its_grace_before_the_disconnect_timeout() -> None:
    lease = Lease(sent_micros=MINUTE, window_micros=20 * SECOND)
    times = lease_stop(lease, recorded=True, order=order(disconnect_micros=15 * MINUTE, grace_micros=5 * SECOND))
    assert times is not None
    assert times.kill_micros == 16 * MINUTE - SECOND
    assert times.term_micros == times.kill_micros - 5 * SECOND


@pytest.mark.parametrize(("now", "may"), [(0, True), (9, True), (19, True), (20, False), (21, False)])
def test_starts_are_allowed_within_the_window_only(now: int, may: bool) -> None:
    assert Lease(sent_micros=0, window_micros=20).may_start(now) is may


def test_an_order_survives_the_journal() -> None:
    first = order(env={"A": "ä"}, timeout_micros=5, disconnect_micros=None, drop_when_full=True)
    again = json.loads(json.dumps({**first.to_message(), "of_a_later_version": 1}))
    assert StartOrder.from_message(again) == first
