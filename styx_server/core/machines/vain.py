"""Remembers for what machines were rented in vain, so that nobody rents without end.

What a market promises and what an agent then finds on its machine may differ: a disk that is smaller, an accelerator
that is not seen. A machine that was rented for tasks and cannot run them would be given back idle, and rented anew for
as long as they wait. Dies with its server, which costs one more machine. Next: `scale.py`, which rents nothing then.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from styx_server.core.machines.instance import InstanceId
from styx_server.core.task import Shape

SETTLED_SECONDS: Final = 5.0
"""So long after its join, scheduling knows of every machine what it can run."""
FIRST_SECONDS: Final = 600.0
MOST_SECONDS: Final = 6 * 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Strike:
    count: int
    until: float
    words: str


class Vain:
    """What was rented for which shape, and which shapes nothing is rented for at the moment."""

    def __init__(self) -> None:
        self._meant: dict[InstanceId, Shape] = {}
        self._strikes: dict[Shape, _Strike] = {}

    def rented(self, instance_id: InstanceId, shape: Shape | None) -> None:
        """A machine is rented for tasks of a shape; None: for nothing in particular."""
        if shape is not None:
            self._meant[instance_id] = shape

    def look(
        self, waiting: Mapping[Shape, str | None], live: Iterable[InstanceId], settled: Iterable[InstanceId], now: float
    ) -> list[InstanceId]:
        """Holds machines against what waits; returns those that were rented in vain.

        Args:
            waiting: shapes without room, each with why no agent could run it even when idle; None: one could.
            live: all machines that have not ended.
            settled: those of them that take work, and have for a while.
            now: seconds on the monotonic clock.
        """
        there = set(live)
        self._meant = {each: shape for each, shape in self._meant.items() if each in there}
        for shape, strike in list(self._strikes.items()):
            if now >= strike.until + MOST_SECONDS or (shape in waiting and waiting[shape] is None):
                del self._strikes[shape]
        found = []
        for instance_id in set(settled) & self._meant.keys():
            shape = self._meant[instance_id]
            if (lack := waiting.get(shape)) is not None:
                del self._meant[instance_id]
                found.append(instance_id)
                self._strike(shape, f"i{instance_id} was rented for it in vain: {lack}", now)
        return sorted(found)

    def why_not(self, shape: Shape, now: float) -> str:
        """Why nothing is rented for a shape at the moment; empty: nothing speaks against it."""
        strike = self._strikes.get(shape)
        if strike is None or now >= strike.until:
            return ""
        return f"{strike.words}; nothing more is rented for it for {math.ceil((strike.until - now) / 60)} min"

    def _strike(self, shape: Shape, words: str, now: float) -> None:
        old = self._strikes.get(shape)
        if old is not None and now < old.until:
            return  # rented together with the one that struck before
        count = 1 if old is None else old.count + 1
        seconds = min(FIRST_SECONDS * 2.0 ** min(count - 1, 40), MOST_SECONDS)
        self._strikes[shape] = _Strike(count=count, until=now + seconds, words=words)
