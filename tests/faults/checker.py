"""What Styx promised, held against what happened: values in, anomalies out. Starts nothing, asks nobody.

Each check is a generator that takes one task's case, or the whole histories. To add one, write it, put it into its
table, and give it a history that breaks it in `test_checker.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from styx_server.core.states import TASK_TRANSITIONS, TaskState
from tests.faults.evidence import ENDED, Attempt, Case, cases_of, leases_by_agent
from tests.faults.history import Event, Histories
from tests.faults.stub import stream

UNKNOWN_FATE = frozenset({"LOST", "HOST_REBOOTED", "SUPERVISOR_LOST"})
"""Nobody saw how it ended: output that was on the way may be missing."""
DEADLY = frozenset({"supervisor killed", "disk full"})
"""Kinds of faults that a supervisor may die of."""
NEVER_RAN = frozenset({"REJECTED", "RETURNED", "START_FAILED"})
CLOCK_SLACK_NS = 50_000_000
"""Styx's times are those of the wall clock; this is how badly they are known on the histories' clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Anomaly:
    """A promise that was not kept; an empty key: not about one task."""

    check: str
    key: str
    text: str


_Case = Callable[[Case], Iterator[str]]
_Whole = Callable[[Histories], Iterator[str]]


def check(histories: Histories) -> list[Anomaly]:
    """Everything that is wrong with these histories."""
    found = [
        Anomaly(check=about.__name__, key=case.key, text=text)
        for case in cases_of(histories).values()
        for about in (CASE_CHECKS if case.settled else CHECKS_AT_ANY_TIME)
        for text in about(case)
    ]
    whole = [Anomaly(check=about.__name__, key="", text=text) for about in WHOLE_CHECKS for text in about(histories)]
    return found + whole


def no_task_is_lost(case: Case) -> Iterator[str]:
    """A submit that was answered is a task, one task, and it comes to an end."""
    if len(case.tasks) > 1:
        yield f"one submit made {len(case.tasks)} tasks: {', '.join(case.tasks)}"
    answers = {event["id"] for event in case.asked if event["what"] == "submit_ok"}
    if len(answers) > 1:
        yield f"one request id was answered with {len(answers)} tasks: {', '.join(sorted(answers))}"
    for answer in answers - set(case.tasks):
        yield f"{answer} was promised and is not there"
    for task in case.readings:
        if task["state"] not in ENDED:
            yield f"{task['id']} never ended: it is {task['state']} ({task['reason']}) when all was quiet"
            return


def nothing_runs_unasked(case: Case) -> Iterator[str]:
    """Every run was asked for, is an attempt that Styx recorded, and is its only one."""
    if case.runs and case.first("submit") is None:
        yield "it ran and nobody submitted it"
    for before, after in pairwise(sorted(case.runs, key=lambda run: run.fence)):
        if before.fence == after.fence:
            yield f"fence {before.fence} ran twice"
    for run in case.runs:
        attempt = case.attempts.get(run.fence)
        if attempt is None:
            yield f"a run with fence {run.fence} is no attempt that Styx knows"
        elif attempt.outcome in NEVER_RAN:
            yield f"attempt {attempt.number} is {attempt.outcome}, and it ran"
    if case.plan.get("at_most_once") and len(case.runs) > 1 + case.count("retry"):
        yield f"at_most_once, and it ran {len(case.runs)} times"


def no_two_runs_overlap(case: Case) -> Iterator[str]:
    """By the lock, which needs no clock, and by first and last sign of life."""
    for run in case.runs:
        if any(event["what"] == "OVERLAP" for event in run.events):
            yield f"fence {run.fence} found another run alive: the lock was held"
    for before, after in pairwise(case.runs):
        if after.start["at"] < before.last_sign:
            late = (before.last_sign - after.start["at"]) / 1e9
            yield f"fence {before.fence} lived on for {late:.3f} s after fence {after.fence} had started"


def an_end_is_an_end(case: Case) -> Iterator[str]:
    """When Styx says that an attempt is over, no process of it is left."""
    for run in case.runs:
        attempt = case.attempts.get(run.fence)
        if attempt is None or attempt.ended_at is None or attempt.outcome == "":
            continue
        late = run.last_sign - attempt.ended_at
        if late > CLOCK_SLACK_NS:
            yield f"attempt {attempt.number} was stored as {attempt.outcome} and lived for {late / 1e9:.3f} s more"


def logs_are_what_was_written(case: Case) -> Iterator[str]:
    """Byte for byte, and whole unless the run's fate is unknown or a gap is declared."""
    for attempt in case.attempts.values():
        for number in (1, 2):
            if (log := attempt.logs.get(number)) is not None:
                yield from _log_faults(case, attempt, number, log)
        if attempt.outcome == "EXITED" and any(case.length(number) and number not in attempt.logs for number in (1, 2)):
            yield f"attempt {attempt.number} exited and a stream of it has no log"


def _log_faults(case: Case, attempt: Attempt, number: int, log: Event) -> Iterator[str]:
    place = f"attempt {attempt.number} stream {number}"
    yield from (f"{place}: {text}" for text in _wrong_bytes(case, attempt.fence, number, log["pieces"]))
    missing = _undeclared(log["pieces"], log["gaps"])
    if missing:
        yield f"{place}: bytes {missing[0]} to {missing[1]} are missing and nobody says so"
    if log["corrupt"]:
        yield f"{place}: Styx calls it corrupt"
    if attempt.outcome in UNKNOWN_FATE or not attempt.outcome:
        return
    stored = max((offset + length for offset, length, _ in log["pieces"]), default=0)
    declared = max((end for _, end in log["gaps"]), default=0)
    runs = [run for run in case.runs if run.fence == attempt.fence]
    wanted = max((run.written(number) for run in runs), default=0)
    if max(stored, declared) < wanted:
        yield f"{place}: it wrote {wanted} bytes and {stored} are stored"
    if not log["sealed"]:
        yield f"{place}: it was never sealed"


def _wrong_bytes(case: Case, fence: int, number: int, pieces: list[tuple[int, int, str]]) -> Iterator[str]:
    top = max((offset + length for offset, length, _ in pieces), default=0)
    if top > case.length(number):
        yield f"{top} bytes are stored, more than the {case.length(number)} that a whole run prints"
        return
    source = stream(case.key, fence, number, top)
    for offset, length, digest in pieces:
        if hashlib.sha256(source[offset : offset + length]).hexdigest() != digest:
            yield f"bytes {offset} to {offset + length} are not what was written"


def _undeclared(pieces: list[tuple[int, int, str]], gaps: list[tuple[int, int]]) -> tuple[int, int] | None:
    at = 0
    for start, end in sorted([(offset, offset + length) for offset, length, _ in pieces] + [(a, b) for a, b in gaps]):
        if start > at:
            return at, start
        at = max(at, end)
    return None


def followers_read_what_was_written(case: Case) -> Iterator[str]:
    """Whoever followed the output meanwhile got each byte once, whatever broke."""
    for event in case.asked:
        if event["what"] != "followed":
            continue
        for log in event["logs"]:
            place = f"a follower of fence {log['fence']} stream {log['stream']}"
            yield from (f"{place}: {text}" for text in _wrong_bytes(case, log["fence"], log["stream"], log["pieces"]))
            if missing := _undeclared(log["pieces"], log["gaps"]):
                yield f"{place} was not given bytes {missing[0]} to {missing[1]}"


def outcomes_are_true(case: Case) -> Iterator[str]:
    """What Styx says of an attempt is what its run says of itself."""
    runs = {run.fence: run for run in case.runs}
    for attempt in case.attempts.values():
        run = runs.get(attempt.fence)
        code = run.end["code"] if run is not None and run.end is not None else None
        match attempt.outcome:
            case "EXITED" if code != attempt.exit_code:
                own = "it never said how it ended" if code is None else f"it says {code}"
                yield f"attempt {attempt.number} exited with {attempt.exit_code}, and {own}"
            case "SIGNALED" | "OOM_KILLED":
                yield f"attempt {attempt.number} is {attempt.outcome}, and nobody sent it a signal"
            case "TIMED_OUT" if "timeout" not in case.plan:
                yield f"attempt {attempt.number} timed out, and it had no timeout"


def states_follow_from_outcomes(case: Case) -> Iterator[str]:
    """A task's end is that of its last attempt, or somebody's wish."""
    task, last = case.task, case.last
    if task is None or task["state"] not in ENDED:
        return
    outcome = last.outcome if last is not None else ""
    match task["state"]:
        case "SUCCEEDED":
            good = last is not None and outcome == "EXITED" and last.exit_code == 0
        case "FAILED":
            good = outcome in {"SIGNALED", "OOM_KILLED", "START_FAILED"} or (
                last is not None and outcome == "EXITED" and last.exit_code != 0
            )
        case "TIMED_OUT":
            good = outcome == "TIMED_OUT"
        case "LOST":
            good = bool(case.plan.get("at_most_once")) and outcome in UNKNOWN_FATE | {"CANCELLED", "PREEMPTED"}
        case _:
            good = True
    if not good:
        yield f"the task is {task['state']} and its last attempt {outcome or 'never was'}"


def cancelled_means_asked(case: Case) -> Iterator[str]:
    """Nobody's task is cancelled without a word from its owner, and before that word nothing is CANCELLED."""
    asked = case.first("cancel")
    if case.task is not None and case.task["state"] == "CANCELLED" and asked is None:
        yield "it is CANCELLED and nobody asked"
    at = 0
    for event in case.events:
        # Its time is that at which its transaction began, and may be older than what it had to wait for.
        at = max(at, event["at"])
        early = asked is None or at < asked["at"] - CLOCK_SLACK_NS
        if event["state"] in {"CANCELLING", "CANCELLED"} and early:
            yield f"it became {event['state']} before anybody asked"
            return


def steps_are_legal(case: Case) -> Iterator[str]:
    """Every step is in the table of states, and an end comes once for each time that it was opened."""
    states = ["PENDING"] + [event["state"] for event in case.events]
    for before, after in pairwise(states):
        if before != after and (TaskState[before], TaskState[after]) not in TASK_TRANSITIONS:
            yield f"it went from {before} to {after}"
    ends = sum(after in ENDED and before not in ENDED for before, after in pairwise(states))
    if ends > 1 + case.count("retry"):
        yield f"it ended {ends} times and was asked to run again {case.count('retry')} times"
    if case.events and case.task is not None and case.events[-1]["state"] != case.task["state"]:
        yield f"its last event says {case.events[-1]['state']} and it is {case.task['state']}"


def ends_stay(case: Case) -> Iterator[str]:
    """Whoever was told of an end was told the truth for ever, unless somebody asked for another try."""
    told = [event for event in case.asked if event["what"] in {"seen", "retry"}] + case.readings
    end: Event | None = None
    for event in sorted(told, key=lambda item: int(item["at"])):
        if event["what"] == "retry":
            end = None
        elif end is not None and (event["state"], event["exit_code"]) != (end["state"], end["exit_code"]):
            yield f"it was {end['state']} ({end['exit_code']}) and later {event['state']} ({event['exit_code']})"
            return
        elif event["state"] in ENDED:
            end = event


def leases_only_rise(histories: Histories) -> Iterator[str]:
    """Epochs and lease numbers of an agent never go back."""
    for agent_id, looks in leases_by_agent(histories).items():
        for (_, epoch, lease_seq), (at, next_epoch, next_seq) in pairwise(looks):
            if next_epoch < epoch or next_seq < lease_seq:
                yield f"a{agent_id} went from epoch {epoch} lease {lease_seq} to {next_epoch} and {next_seq} at {at}"


def fences_are_used_once(histories: Histories) -> Iterator[str]:
    """No two attempts share a fence, whoever they belong to."""
    owners: dict[int, str] = {}
    for event in histories.styx:
        if event["what"] == "attempt":
            place = f"{event['key']} attempt {event['number']}"
            if owners.setdefault(event["fence"], place) != place:
                yield f"fence {event['fence']} is of {owners[event['fence']]} and of {place}"


def deaths_have_a_cause(histories: Histories) -> Iterator[str]:
    """Styx says that a supervisor died or a machine restarted only if one did."""
    deaths = [event["at"] for event in histories.faults if event["what"] == "begin" and event["kind"] in DEADLY]
    for event in histories.styx:
        if event["what"] != "attempt" or event["outcome"] not in {"SUPERVISOR_LOST", "HOST_REBOOTED"}:
            continue
        if event["outcome"] == "HOST_REBOOTED" or not any(at <= event["ended_at"] + CLOCK_SLACK_NS for at in deaths):
            yield f"{event['key']} attempt {event['number']} is {event['outcome']}, and nothing of the kind happened"


def all_was_quiet_in_time(histories: Histories) -> Iterator[str]:
    """After the last fault was healed everything came to its end within the bound."""
    for event in histories.client:
        if event["what"] == "not_quiet":
            yield f"{event['open']} tasks had not ended {event['seconds']:.0f} s after everything was healed"


CASE_CHECKS: tuple[_Case, ...] = (
    no_task_is_lost,
    nothing_runs_unasked,
    no_two_runs_overlap,
    an_end_is_an_end,
    logs_are_what_was_written,
    followers_read_what_was_written,
    outcomes_are_true,
    states_follow_from_outcomes,
    cancelled_means_asked,
    steps_are_legal,
    ends_stay,
)
CHECKS_AT_ANY_TIME: tuple[_Case, ...] = (no_task_is_lost, no_two_runs_overlap)
"""For a task that had not ended when Styx was read: what was read first and last does not fit together."""
WHOLE_CHECKS: tuple[_Whole, ...] = (leases_only_rise, fences_are_used_once, deaths_have_a_cause, all_was_quiet_in_time)
