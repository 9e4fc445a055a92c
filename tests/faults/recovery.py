"""How long it took until all was well again after each fault: a pure look at histories.

Well means: every agent's lease has moved since the healing, and a task that was submitted after it was accepted. A
fault is left out when the next one came before that.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

from tests.faults.evidence import leases_by_agent
from tests.faults.history import Event, Histories

_NANOSECONDS = 1e9


def recovery_seconds(histories: Histories) -> dict[str, list[float]]:
    """Times to recover, by kind of fault."""
    begins = sorted(event["at"] for event in histories.faults if event["what"] == "begin")
    found: dict[str, list[float]] = defaultdict(list)
    for event in histories.faults:
        if event["what"] != "healed":
            continue
        well = max(_leases_moved(histories, event["at"]), _submit_accepted(histories.client, event["at"]))
        later = next((at for at in begins if at > event["at"]), math.inf)
        if well < later:
            found[event["kind"]].append((well - event["at"]) / _NANOSECONDS)
    return dict(found)


def percentile(values: Iterable[float], share: float) -> float:
    """The value below which that share lies."""
    ordered: Sequence[float] = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


def _leases_moved(histories: Histories, since: int) -> float:
    """When the last agent was heard of again."""
    latest = float(since)
    for looks in leases_by_agent(histories).values():
        before = max((seq for at, _, seq in looks if at <= since), default=0)
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
