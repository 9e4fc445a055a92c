"""How long it took until all was well again after each fault: a pure look at histories.

Well means: every agent's lease has moved since the healing, and a task that was submitted after it was accepted. What
is left of several replicas must do without the one that was killed, so there it is since the kill. A fault is left out
when another was there before all was well.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

from tests.faults.evidence import leases_by_agent
from tests.faults.history import Event, Histories

_NANOSECONDS = 1e9
_LOOK_NANOSECONDS = 500_000_000
"""A lease may have moved that long before it was seen to."""
SURVIVED = frozenset({"replica killed", "leader killed"})
"""Kinds that leave other replicas, which take over at once."""


def recovery_seconds(histories: Histories) -> dict[str, list[float]]:
    """Times to recover, by kind of fault."""
    found: dict[str, list[float]] = defaultdict(list)
    begins = {event["number"]: event for event in histories.faults if event["what"] == "begin"}
    heals = {event["number"]: event["at"] for event in histories.faults if event["what"] == "healed"}
    for number, healed in heals.items():
        begin = begins[number]
        since = begin["at"] if begin["kind"] in SURVIVED else healed
        well = max(_leases_moved(histories, since), _submit_accepted(histories.client, since))
        others = [(begins[other]["at"], heals.get(other, math.inf)) for other in begins.keys() - {number}]
        if well < math.inf and not any(at < well and upto > since for at, upto in others):
            found[begin["kind"]].append((well - since) / _NANOSECONDS)
    return dict(found)


def percentile(values: Iterable[float], share: float) -> float:
    """The value below which that share lies."""
    ordered: Sequence[float] = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


def _leases_moved(histories: Histories, since: int) -> float:
    """When the last agent was heard of again."""
    latest = float(since)
    for looks in leases_by_agent(histories).values():
        before = max((seq for at, _, seq in looks if at <= since + _LOOK_NANOSECONDS), default=0)
        latest = max(latest, next((at for at, _, seq in looks if at > since and seq > before), math.inf))
    return latest


def _submit_accepted(client: Sequence[Event], since: int) -> float:
    """When the first task that was submitted after that was accepted."""
    asked: set[str] = set()
    for event in client:
        if event["at"] > since and event["what"] == "submit":
            asked.add(event["key"])
        elif event["what"] == "submit_ok" and event["key"] in asked:
            return float(event["at"])
    return math.inf
