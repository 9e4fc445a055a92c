"""When an attempt whose agent is silent is dead on both sides.

Silence is observed, never read off a wall clock: `lease_seq` did not change for so long on the observer's own monotonic
clock, counted from zero when the observer starts, fails to look, or sleeps. The agent's supervisor has stopped the
attempt before; the margin covers clocks that drift by up to 2.4 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Final

from styx_server.core.states import AttemptState
from styx_server.core.task import AgentId

MASS_SHARE: Final = 0.5
MASS_COUNT: Final = 5
"""Half of all agents, and five at least, silent at once: that is our outage, and nothing expires for a while."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTerms:
    """Every time of the lease. All are in proportion: `scaled` makes them shorter together or not at all.

    Attributes:
        heartbeat_seconds: how often an agent says that it lives.
        start_window_seconds: W: an attempt whose start is not recorded is stopped that long after the send time of the
            last acked beat.
        least_disconnect_seconds: the shortest disconnect timeout that a task may ask for.
        least_margin_seconds: the fixed part of the margin.
        unreachable_seconds: an agent without a beat for this long gets no new work; two beats and a slow commit fit
            in it.
        look_seconds: how often the observer looks.
        longest_gap_seconds: an observer that did not look for this long may have slept through a beat: it starts
            again.
        mass_hold_seconds: how long nothing expires after many agents fell silent at once.
    """

    heartbeat_seconds: float = 10.0
    start_window_seconds: float = 20.0
    least_disconnect_seconds: float = 60.0
    least_margin_seconds: float = 10.0
    unreachable_seconds: float = 35.0
    look_seconds: float = 5.0
    longest_gap_seconds: float = 20.0
    mass_hold_seconds: float = 600.0

    @classmethod
    def scaled(cls, scale: float) -> LeaseTerms:
        """The usual terms, all of them times `scale`."""
        usual = cls()
        return cls(**{field.name: getattr(usual, field.name) * scale for field in fields(cls)})

    def margin_seconds(self, window_seconds: float) -> float:
        """What is added to a window on this side, so that the other side has surely acted."""
        return 0.05 * window_seconds + self.least_margin_seconds

    @property
    def shortest_patience_seconds(self) -> float:
        """How long an agent must have been silent before anything of it is dead."""
        return self.start_window_seconds + self.margin_seconds(self.start_window_seconds)

    def patience_seconds(self, state: AttemptState, disconnect_seconds: float | None) -> float | None:
        """How long an agent must have been silent before its attempt is dead; None: never.

        Args:
            state: ASSIGNED means that no start is recorded, so the attempt lives under the start window only.
            disconnect_seconds: the task's own limit; None: never.
        """
        if state is AttemptState.ASSIGNED:
            return self.shortest_patience_seconds
        return None if disconnect_seconds is None else disconnect_seconds + self.margin_seconds(disconnect_seconds)


USUAL_TERMS: Final = LeaseTerms()


@dataclass(slots=True)
class _Seen:
    lease_seq: int
    since: float


class LeaseWatch:
    """One observer's view of all leases."""

    def __init__(self, terms: LeaseTerms = USUAL_TERMS) -> None:
        self._terms = terms
        self._seen: dict[AgentId, _Seen] = {}
        self._looked_at: float | None = None

    def observe(self, leases: Mapping[AgentId, int], now: float) -> None:
        """Takes in every lease as it is; `now` in seconds on a monotonic clock."""
        if self._looked_at is not None and now - self._looked_at > self._terms.longest_gap_seconds:
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
        silent = self.silent(now, self._terms.shortest_patience_seconds)
        fresh = [seconds for _, seconds in silent.values() if seconds < self._terms.mass_hold_seconds]
        return len(fresh) >= MASS_COUNT and len(fresh) > MASS_SHARE * len(self._seen)
