"""How quickly attempts end on an agent of late, and how many it may therefore be given beyond its room.

Without any, a slot stands idle from the end of one attempt until the next has made its way: a report, two commits, an
order. That is longer than a short command takes. So an agent may have about as much waiting as it will have done
by then, and an agent whose attempts take long has nothing waiting, because another agent may be free sooner.
"""

from __future__ import annotations

import math
from typing import Final

_MEMORY_SECONDS: Final = 0.5
_AHEAD_SECONDS: Final = 0.1
"""How much work may wait, counted in time: several round trips, and less than people notice."""
_MOST: Final = 256


class Pace:
    """Ends, each counting for less the longer ago it was."""

    def __init__(self) -> None:
        self._recent = 0.0
        self._at = 0.0

    def note(self, count: int, now: float) -> None:
        """So many attempts ended; `now` is in seconds on the monotonic clock."""
        self._recent = self._left(now) + count
        self._at = now

    def allowance(self, now: float) -> int:
        """How many may wait."""
        return min(_MOST, int(self._left(now) / _MEMORY_SECONDS * _AHEAD_SECONDS))

    def _left(self, now: float) -> float:
        return self._recent * math.exp((self._at - now) / _MEMORY_SECONDS)
