"""When an attempt whose agent is silent is dead on both sides.

Silence is observed, never read off a wall clock: `lease_seq` did not change for so long on the observer's own monotonic
clock, counted from zero when the observer starts, fails to look, or sleeps. The agent's supervisor has stopped the
attempt before; the margin covers clocks that drift by up to 2.4 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from styx_server.core.states import AttemptState
from styx_server.core.task import AgentId

START_WINDOW_SECONDS: Final = 20.0
"""W: an attempt whose start is not recorded is stopped that long after the send time of the last acked beat."""

UNREACHABLE_SECONDS: Final = 35.0
"""An agent without a beat for this long gets no new work; two beats of 10 s and a slow commit fit in it."""

LONGEST_GAP_SECONDS: Final = 20.0
"""An observer that did not look for this long may have slept through a beat: it starts again."""

MASS_SHARE: Final = 0.5
MASS_COUNT: Final = 5
MASS_HOLD_SECONDS: Final = 600.0
"""Half of all agents, and five at least, silent at once: that is our outage. Nothing expires for ten minutes."""


def margin_seconds(window_seconds: float) -> float:
    """What is added to a window on this side, so that the other side has surely acted."""
    return 0.05 * window_seconds + 10.0


def patience_seconds(state: AttemptState, disconnect_seconds: float | None) -> float | None:
    """How long an agent must have been silent before its attempt is dead; None: never.

    Args:
        state: ASSIGNED means that no start is recorded, so the attempt lives under the start window only.
        disconnect_seconds: the task's own limit; None: never.
    """
    if state is AttemptState.ASSIGNED:
        return START_WINDOW_SECONDS + margin_seconds(START_WINDOW_SECONDS)
    return None if disconnect_seconds is None else disconnect_seconds + margin_seconds(disconnect_seconds)


@dataclass(slots=True)
class _Seen:
    lease_seq: int
    since: float


class LeaseWatch:
    """One observer's view of all leases."""

    def __init__(self) -> None:
        self._seen: dict[AgentId, _Seen] = {}
        self._looked_at: float | None = None

    def observe(self, leases: Mapping[AgentId, int], now: float) -> None:
        """Takes in every lease as it is; `now` in seconds on a monotonic clock."""
        if self._looked_at is not None and now - self._looked_at > LONGEST_GAP_SECONDS:
            self._seen.clear()
        self._looked_at = now
        for agent_id in self._seen.keys() - leases.keys():
            del self._seen[agent_id]
        for agent_id, lease_seq in leases.items():
            seen = self._seen.get(agent_id)
            if seen is None or seen.lease_seq != lease_seq:
                self._seen[agent_id] = _Seen(lease_seq, now)

    def forget(self) -> None:
        """Starts again from zero: a look failed, so a beat may have been missed."""
        self._seen.clear()

    def silent(self, now: float, at_least_seconds: float) -> dict[AgentId, tuple[int, float]]:
        """Agents that were silent for that long: their `lease_seq`, and for how long in seconds."""
        return {
            agent_id: (seen.lease_seq, now - seen.since)
            for agent_id, seen in self._seen.items()
            if now - seen.since >= at_least_seconds
        }

    def is_outage(self, now: float) -> bool:
        """Whether so many agents fell silent lately that the fault must be ours."""
        # From the moment at which the first attempt could be ended, not a second later.
        silent = self.silent(now, START_WINDOW_SECONDS + margin_seconds(START_WINDOW_SECONDS))
        fresh = [seconds for _, seconds in silent.values() if seconds < MASS_HOLD_SECONDS]
        return len(fresh) >= MASS_COUNT and len(fresh) > MASS_SHARE * len(self._seen)
