"""Tells an anomaly so that it can be understood: the task's timeline from all files, in seconds since the start."""

from __future__ import annotations

from collections.abc import Iterator

from tests.faults.checker import Anomaly
from tests.faults.evidence import Case, cases_of
from tests.faults.history import Event, Histories

_BORING = frozenset({"beat", "wrote"})
_LONGEST_LINES = 120


def tell(histories: Histories, anomaly: Anomaly) -> str:
    """The anomaly, and everything that was written down about its task."""
    head = f"{anomaly.check.replace('_', ' ')}: {anomaly.key or 'as a whole'}: {anomaly.text}"
    case = cases_of(histories).get(anomaly.key)
    if case is None:
        return head
    zero = min((int(event["at"]) for event in histories.client), default=0)
    lines = sorted([*_client(case), *_runs(case), *_styx(case), *_faults(histories, case)])
    told = [f"  {(at - zero) / 1e9:9.3f} s  {who:8} {what}" for at, who, what in lines]
    return "\n".join([head, f"  plan: {case.plan}", *told[:_LONGEST_LINES]])


def _client(case: Case) -> Iterator[tuple[int, str, str]]:
    for event in case.asked:
        yield int(event["at"]), "client", _words(event, {"key", "plan", "logs"})


def _runs(case: Case) -> Iterator[tuple[int, str, str]]:
    for run in case.runs:
        who = f"run {run.fence}"
        beats = [event for event in run.events if event["what"] in _BORING]
        for event in run.events:
            if event["what"] not in _BORING:
                yield int(event["at"]), who, _words(event, {"key", "boot_id"})
        if beats:
            yield int(beats[-1]["at"]), who, "the last sign of life"
        yield run.last_sign, who, f"has written {run.written(1)} and {run.written(2)} bytes"


def _styx(case: Case) -> Iterator[tuple[int, str, str]]:
    for event in case.events:
        yield int(event["at"]), "styx", _words(event, {"key"})
    for attempt in case.attempts.values():
        at = attempt.ended_at or 0
        yield at, "styx", f"attempt {attempt.number} fence {attempt.fence}: {attempt.outcome} {attempt.exit_code}"
        for number, log in attempt.logs.items():
            ranges = [(offset, offset + length) for offset, length, _ in log["pieces"]]
            sealed = "sealed" if log["sealed"] else "open"
            yield at, "styx", f"attempt {attempt.number} stream {number}: {ranges}, gaps {log['gaps']}, {sealed}"


def _faults(histories: Histories, case: Case) -> Iterator[tuple[int, str, str]]:
    times = [int(event["at"]) for event in (*case.asked, *case.events)]
    if not times:
        return
    for event in histories.faults:
        if min(times) - 30e9 < event["at"] < max(times):
            yield int(event["at"]), "nemesis", _words(event, {"number"})


def _words(event: Event, without: set[str]) -> str:
    facts = " ".join(f"{name}={value}" for name, value in event.items() if name not in without | {"at", "what"})
    return f"{event['what']} {facts}".strip()
