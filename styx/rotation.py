"""Which of several equal places to try next: any that is not known to be bad, then the bad ones.

Clients and agents choose by chance, so that replicas share them evenly, and avoid for a while what has just failed
them. Knows neither what a place is nor how it is tried.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from styx import clock, ids

P = TypeVar("P")

_AVOIDED_SECONDS = 30.0


class Rotation(Generic[P]):
    """Places, and when each of them failed last.

    Args:
        places: equal in what they offer; at least one.
        now: seconds on a clock that only goes forward.
        fraction: dice, in [0, 1).
    """

    def __init__(
        self,
        places: Sequence[P],
        *,
        now: Callable[[], float] = clock.monotonic,
        fraction: Callable[[], float] = ids.fraction,
    ) -> None:
        self.places = tuple(places)
        self._now = now
        self._fraction = fraction
        self._failed_at: dict[P, float] = {}

    def order(self) -> list[P]:
        """Every place once: at random those that are not avoided, then the avoided ones, longest avoided first."""
        now = self._now()
        self._failed_at = {place: at for place, at in self._failed_at.items() if now - at < _AVOIDED_SECONDS}
        good = [place for place in self.places if place not in self._failed_at]
        ordered: list[P] = []
        while good:
            ordered.append(good.pop(int(self._fraction() * len(good))))
        return ordered + sorted(self._failed_at, key=self._failed_at.__getitem__)

    def failed(self, place: P) -> None:
        """It was of no use: the others come first for a while."""
        self._failed_at[place] = self._now()

    def worked(self, place: P) -> None:
        """It is as good as any other again."""
        self._failed_at.pop(place, None)
