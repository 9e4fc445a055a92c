"""The checker finds what is wrong and nothing else: histories written by hand, each with one fault in it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from tests.faults.checker import CASE_CHECKS, WHOLE_CHECKS, check
from tests.faults.history import Event, Histories, Run
from tests.faults.recovery import recovery_seconds
from tests.faults.story import tell
from tests.faults.stub import stream

SECOND = 1_000_000_000
Change = Callable[[Histories], None]


def good() -> Histories:
    """A task that ran twice: its first attempt failed, its second succeeded; somebody followed it."""
    plan = {"seconds": 1, "stdout": 100, "codes": [3, 0], "max_retries": 1}
    return Histories(
        client=[
            {"at": 1 * SECOND, "what": "submit", "key": "k", "plan": plan},
            {"at": 2 * SECOND, "what": "submit_unknown", "key": "k", "error": "away"},
            {"at": 3 * SECOND, "what": "submit_ok", "key": "k", "id": "t1"},
            {"at": 30 * SECOND, "what": "followed", "key": "k", "logs": [_log(10), _log(11)]},
            {"at": 31 * SECOND, "what": "seen", "key": "k", "state": "SUCCEEDED", "exit_code": 0},
        ],
        runs=[_run(10, 5, 3), _run(11, 15, 0)],
        leases=[{"at": at * SECOND, "what": "leases", "leases": [[1, 1, at]]} for at in range(40)],
        styx=[
            _task(40),
            _attempt(1, 10, 3, 8),
            _attempt(2, 11, 0, 18),
            *(_event(at, state) for at, state in ((3, "PENDING"), (5, "RUNNING"), (8, "PENDING"), (15, "RUNNING"))),
            _event(18, "SUCCEEDED"),
            _log(10),
            _log(11),
            _task(50),
        ],
    )


def _run(fence: int, at: int, code: int) -> Run:
    start = {"at": at * SECOND, "what": "start", "key": "k", "attempt": 1, "fence": fence, "boot_id": "b", "pid": 7}
    wrote = {"at": (at + 1) * SECOND, "what": "wrote", "stream": 1, "upto": 100}
    return Run(key="k", events=[start, wrote, {"at": (at + 2) * SECOND, "what": "end", "code": code}])


def _task(at: int, **more: Any) -> Event:
    task = {"at": at * SECOND, "what": "task", "key": "k", "id": "t1", "state": "SUCCEEDED", "reason": ""}
    return {**task, "exit_code": 0, **more}


def _attempt(number: int, fence: int, code: int, ended: int) -> Event:
    attempt = {"what": "attempt", "key": "k", "number": number, "fence": fence, "outcome": "EXITED", "exit_code": code}
    return {"at": 40 * SECOND, **attempt, "ended_at": ended * SECOND}


def _event(at: int, state: str) -> Event:
    return {"at": at * SECOND, "what": "event", "key": "k", "attempt": 1, "state": state, "kind": "", "message": ""}


def _log(fence: int, length: int = 100) -> Event:
    pieces = [[0, length, hashlib.sha256(stream("k", fence, 1, length)).hexdigest()]]
    log = {"at": 41 * SECOND, "what": "log", "key": "k", "fence": fence, "stream": 1, "pieces": pieces}
    return {**log, "gaps": [], "sealed": True, "corrupt": False}


def _set(where: str, number: int, **facts: Any) -> Change:
    return lambda histories: getattr(histories, where)[number].update(facts)


def _add(where: str, *items: Any) -> Change:
    return lambda histories: getattr(histories, where).extend(items)


def _drop(where: str, number: int) -> Change:
    return lambda histories: getattr(histories, where).pop(number)


def _both(*changes: Change) -> Change:
    def change(histories: Histories) -> None:
        for each in changes:
            each(histories)

    return change


def _of_run(number: int, event: int, **facts: Any) -> Change:
    return lambda histories: histories.runs[number].events[event].update(facts)


def _as(state: str, outcome: str, **plan: Any) -> Change:
    """The second attempt, and with it the task, ended in another way."""
    return _both(
        _set("styx", 2, outcome=outcome),
        _set("styx", 7, state=state),
        _set("client", 4, state=state),
        *(_set("styx", number, state=state) for number in (0, 10)),
        lambda histories: histories.client[0]["plan"].update(plan),
    )


BROKEN: dict[str, tuple[str, Change]] = {
    "a task that was promised is not there": (
        "no_task_is_lost",
        lambda histories: histories.styx.clear(),
    ),
    "a task never ends": (
        "no_task_is_lost",
        _both(*(_set("styx", number, state="PENDING") for number in (0, 10)), _drop("client", 4)),
    ),
    "one submit makes two tasks": ("no_task_is_lost", _add("styx", _task(50, id="t2"))),
    "a retry of a submit is answered with another id": (
        "no_task_is_lost",
        _add("client", {"at": 4 * SECOND, "what": "submit_ok", "key": "k", "id": "t2"}),
    ),
    "something runs that nobody submitted": (
        "nothing_runs_unasked",
        lambda histories: histories.client.clear(),
    ),
    "a run is of no attempt": ("nothing_runs_unasked", _add("runs", _run(12, 25, 0))),
    "one fence runs twice": ("nothing_runs_unasked", _add("runs", _run(11, 18, 0))),
    "what was rejected ran": ("nothing_runs_unasked", _set("styx", 1, outcome="REJECTED")),
    "at_most_once runs twice": (
        "nothing_runs_unasked",
        lambda histories: histories.client[0]["plan"].update(at_most_once=True),
    ),
    "the lock was held": (
        "no_two_runs_overlap",
        lambda histories: histories.runs[1].events.append({"at": 15 * SECOND, "what": "OVERLAP"}),
    ),
    "the first run lives when the second starts": (
        "no_two_runs_overlap",
        lambda histories: histories.runs[0].events.append({"at": 16 * SECOND, "what": "beat"}),
    ),
    "a process outlives its attempt": (
        "an_end_is_an_end",
        lambda histories: histories.runs[1].events.append({"at": 19 * SECOND, "what": "beat"}),
    ),
    "a byte is another": (
        "logs_are_what_was_written",
        lambda histories: histories.styx[8].update(pieces=[[0, 100, hashlib.sha256(b"x" * 100).hexdigest()]]),
    ),
    "the log of another attempt": (
        "logs_are_what_was_written",
        lambda histories: histories.styx[8].update(pieces=_log(11)["pieces"]),
    ),
    "the end of a log is missing": (
        "logs_are_what_was_written",
        lambda histories: histories.styx[8].update(pieces=_log(10, 60)["pieces"]),
    ),
    "the beginning of a log is missing": (
        "logs_are_what_was_written",
        lambda histories: histories.styx[8].update(
            pieces=[[40, 60, hashlib.sha256(stream("k", 10, 1, 100)[40:]).hexdigest()]]
        ),
    ),
    "a log is longer than what was written": (
        "logs_are_what_was_written",
        lambda histories: histories.styx[8].update(pieces=_log(10, 101)["pieces"]),
    ),
    "a whole log is missing": ("logs_are_what_was_written", _drop("styx", 8)),
    "a log is never sealed": ("logs_are_what_was_written", _set("styx", 8, sealed=False)),
    "a log is called corrupt": ("logs_are_what_was_written", _set("styx", 8, corrupt=True)),
    "a follower misses bytes": (
        "followers_read_what_was_written",
        lambda histories: (
            histories.client[3]["logs"][0].update(pieces=[])
            or histories.client[3]["logs"][1].update(
                pieces=[[50, 50, hashlib.sha256(stream("k", 11, 1, 100)[50:]).hexdigest()]]
            )
        ),
    ),
    "a follower reads something else": (
        "followers_read_what_was_written",
        lambda histories: histories.client[3]["logs"][0].update(pieces=_log(11)["pieces"]),
    ),
    "an exit code is another": ("outcomes_are_true", _of_run(1, 2, code=9)),
    "an exit that never was": ("outcomes_are_true", lambda histories: histories.runs[1].events.pop()),
    "a signal that nobody sent": ("outcomes_are_true", _as("FAILED", "SIGNALED")),
    "a timeout that it did not have": ("outcomes_are_true", _as("TIMED_OUT", "TIMED_OUT")),
    "a success that was a failure": (
        "states_follow_from_outcomes",
        _both(_set("styx", 2, exit_code=3), _of_run(1, 2, code=3)),
    ),
    "a loss of a task that may run again": ("states_follow_from_outcomes", _as("LOST", "LOST")),
    "cancelled by nobody": ("cancelled_means_asked", _as("CANCELLED", "CANCELLED")),
    "cancelled before it was asked": (
        "cancelled_means_asked",
        _both(
            _as("CANCELLED", "CANCELLED"),
            _add("client", {"at": 19 * SECOND, "what": "cancel", "key": "k", "id": "t1"}),
        ),
    ),
    "a step back from the end": ("steps_are_legal", _add("styx", _event(20, "RUNNING"), _event(21, "SUCCEEDED"))),
    "the last event is not the state": ("steps_are_legal", _drop("styx", 7)),
    "an end that changes": ("ends_stay", _set("client", 4, state="FAILED", exit_code=3)),
    "an end that changes between two readings": ("ends_stay", _set("styx", 10, exit_code=1)),
    "an epoch falls": (
        "leases_only_rise",
        _both(_set("leases", 20, leases=[[1, 2, 20]]), _set("leases", 21, leases=[[1, 1, 21]])),
    ),
    "a lease falls": ("leases_only_rise", _set("leases", 20, leases=[[1, 1, 3]])),
    "a fence is used twice": ("fences_are_used_once", _set("styx", 2, fence=10)),
    "a supervisor that never died is called dead": (
        "deaths_have_a_cause",
        _set("styx", 1, outcome="SUPERVISOR_LOST"),
    ),
    "it never became quiet": (
        "all_was_quiet_in_time",
        _add("client", {"at": 99 * SECOND, "what": "not_quiet", "open": 3, "seconds": 60.0}),
    ),
}


def test_a_good_history_is_good() -> None:
    assert check(good()) == []


@pytest.mark.parametrize(("name", "change"), BROKEN.values(), ids=BROKEN)
def test_a_history_that_breaks_a_promise_is_found(name: str, change: Change) -> None:
    histories = deepcopy(good())
    change(histories)
    found = check(histories)
    assert name in {anomaly.check for anomaly in found}
    assert all(tell(histories, anomaly) for anomaly in found)


def test_every_check_has_a_history_that_breaks_it() -> None:
    assert {name for name, _ in BROKEN.values()} == {about.__name__ for about in (*CASE_CHECKS, *WHOLE_CHECKS)}


GOOD: dict[str, Change] = {
    "an end that nobody saw may miss output": _both(
        _set("styx", 1, outcome="LOST"), lambda histories: histories.styx[8].update(pieces=[], sealed=False)
    ),
    "a declared gap is no lie": lambda histories: histories.styx[8].update(
        pieces=_log(10, 60)["pieces"], gaps=[[60, 100]]
    ),
    "cancelled after it was asked": _both(
        _as("CANCELLED", "CANCELLED"),
        _set("styx", 7, state="CANCELLING"),
        _add("styx", _event(19, "CANCELLED")),
        _add("client", {"at": 17 * SECOND, "what": "cancel", "key": "k", "id": "t1"}),
    ),
    "a try that somebody asked for changes an end": _both(
        _add(
            "client",
            {"at": 9 * SECOND, "what": "seen", "key": "k", "state": "FAILED", "exit_code": 3},
            {"at": 10 * SECOND, "what": "retry", "key": "k", "id": "t1"},
        ),
        _set("styx", 5, state="FAILED"),
        lambda histories: histories.styx.insert(6, _event(10, "PENDING")),
    ),
    "a timeout that it had": _as("TIMED_OUT", "TIMED_OUT", timeout=1),
    "a task that never got an answer is nobody's": _both(
        lambda histories: histories.styx.clear(),
        lambda histories: histories.runs.clear(),
        lambda histories: histories.client.__delitem__(slice(2, None)),
    ),
}


@pytest.mark.parametrize("change", GOOD.values(), ids=GOOD)
def test_what_is_allowed_is_not_held_against_anybody(change: Change) -> None:
    histories = deepcopy(good())
    change(histories)
    assert check(histories) == []


def test_what_waited_for_a_lock_is_stored_with_the_time_at_which_it_began_to_wait() -> None:
    histories = good()
    histories.client.insert(3, {"at": 14 * SECOND, "what": "cancel", "key": "k", "id": "t1"})
    histories.styx[3:] = [
        *(_event(at, state) for at, state in ((3, "PENDING"), (5, "RUNNING"), (8, "PENDING"), (15, "CANCELLING"))),
        _event(13, "CANCELLING"),
        _event(18, "SUCCEEDED"),
        *histories.styx[8:],
    ]
    assert not [each for each in check(histories) if each.check == "cancelled_means_asked"]


def test_recovery_ends_when_every_agent_was_heard_and_a_submit_was_accepted() -> None:
    histories = good()
    histories.faults.extend(
        {"at": at * SECOND, "what": what, "number": 1, "kind": "link killed", "target": 0}
        for at, what in ((0.2, "begin"), (0.5, "healed"))
    )
    assert recovery_seconds(histories) == {"link killed": [2.5]}
    histories.faults.append({"at": 2 * SECOND, "what": "begin", "number": 2, "kind": "slow line", "target": 0})
    assert recovery_seconds(histories) == {}


def test_who_leaves_others_behind_is_replaced_from_its_end_on() -> None:
    histories = good()
    histories.faults.extend(
        {"at": at * SECOND, "what": what, "number": 1, "kind": "replica killed", "target": 0}
        for at, what in ((0.2, "begin"), (20, "healed"))
    )
    assert recovery_seconds(histories) == {"replica killed": [2.8]}


def test_recovery_is_not_measured_beside_another_fault() -> None:
    histories = good()
    histories.faults.extend(
        {"at": at * SECOND, "what": what, "number": number, "kind": "link killed", "target": 0}
        for at, what, number in ((0.1, "begin", 1), (0.2, "begin", 2), (0.5, "healed", 2), (30, "healed", 1))
    )
    assert recovery_seconds(histories) == {}
