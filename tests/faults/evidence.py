"""The histories, turned so that questions about one task can be asked. Finds nothing wrong by itself.

Next: `checker.py`, which asks.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from tests.faults.history import Event, Histories, Run

ENDED = frozenset({"SUCCEEDED", "FAILED", "CANCELLED", "TIMED_OUT", "LOST"})


@dataclass(slots=True, kw_only=True)
class Attempt:
    """One attempt as Styx tells it in the end.

    Attributes:
        outcome: how it ended; empty: it has not.
        ended_at: when Styx stored its end, on the histories' clock; None: it has not, or nobody wrote down when.
        logs: what Styx has of its streams, by number.
    """

    number: int
    fence: int
    outcome: str
    exit_code: int | None
    ended_at: int | None = None
    logs: dict[int, Event] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Case:
    """Everything that is known of one task.

    Attributes:
        key: the name that the client gave it; it is in every history.
        plan: what the client asked for: seconds, bytes, exit codes, policies.
        asked: what the client did about it, in order.
        tasks: what Styx has under that name, the last reading of each id; more than one is a fault already.
        readings: every reading of it, in order.
        events: its events as Styx stored them, in order.
    """

    key: str
    plan: dict[str, Any] = field(default_factory=dict)
    asked: list[Event] = field(default_factory=list)
    tasks: dict[str, Event] = field(default_factory=dict)
    readings: list[Event] = field(default_factory=list)
    attempts: dict[int, Attempt] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)

    @property
    def task(self) -> Event | None:
        """What Styx says of it in the end."""
        return next(iter(self.tasks.values()), None)

    @property
    def settled(self) -> bool:
        """Whether it had ended before Styx was read."""
        return all(reading["state"] in ENDED for reading in self.readings)

    @property
    def last(self) -> Attempt | None:
        """Its latest attempt."""
        return max(self.attempts.values(), key=lambda attempt: attempt.number, default=None)

    def first(self, what: str) -> Event | None:
        """The first time that the client did this."""
        return next((event for event in self.asked if event["what"] == what), None)

    def count(self, what: str) -> int:
        """How often the client did this."""
        return sum(event["what"] == what for event in self.asked)

    def length(self, stream: int) -> int:
        """How many bytes a run that comes to its end prints."""
        return int(self.plan.get({1: "stdout", 2: "stderr"}[stream], 0))


def cases_of(histories: Histories) -> dict[str, Case]:
    """Everything by task."""
    cases: dict[str, Case] = {}
    for event in histories.client:
        if "key" in event:
            case = cases.setdefault(event["key"], Case(key=event["key"]))
            case.asked.append(event)
            case.plan.update(event.get("plan", {}))
    for run in histories.runs:
        cases.setdefault(run.key, Case(key=run.key)).runs.append(run)
    for event in histories.styx:
        _take(cases.setdefault(event["key"], Case(key=event["key"])), event)
    for case in cases.values():
        case.runs.sort(key=lambda run: int(run.start["at"]))
    return cases


def _take(case: Case, event: Event) -> None:
    match event["what"]:
        case "task":
            case.tasks[event["id"]] = event
            case.readings.append(event)
        case "attempt":
            case.attempts[event["fence"]] = Attempt(
                number=event["number"],
                fence=event["fence"],
                outcome=event["outcome"],
                exit_code=event["exit_code"],
                ended_at=event.get("ended_at"),
            )
        case "log" if event["fence"] in case.attempts:
            case.attempts[event["fence"]].logs[event["stream"]] = event
        case "event":
            case.events.append(event)


def leases_by_agent(histories: Histories) -> dict[int, list[tuple[int, int, int]]]:
    """When each agent's lease was seen, and its epoch and number then."""
    found: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    for look in histories.leases:
        for agent_id, epoch, lease_seq in look["leases"]:
            found[agent_id].append((look["at"], epoch, lease_seq))
    return found
