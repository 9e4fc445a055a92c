"""What a notice says, and what it means in time. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SECOND: Final = 1_000_000
MARGIN_MICROS: Final = 5 * SECOND
"""Between the kill of what has not ended and the end of the machine: for last words, and output on its way."""
STALE_MICROS: Final = 60 * SECOND
"""A machine that is still there this long after its deadline stays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """This machine ends.

    Attributes:
        deadline_micros: when, in microseconds since the machine started.
        source: who said so, for people.
    """

    deadline_micros: int
    source: str

    def left_micros(self, now_micros: int) -> int:
        """How long it still has."""
        return max(0, self.deadline_micros - now_micros)

    def kill_micros(self, now_micros: int) -> int:
        """When to kill what has not ended. Of a short notice the last quarter is kept for telling."""
        left = self.left_micros(now_micros)
        return now_micros + left - min(MARGIN_MICROS, left // 4)

    @property
    def over_micros(self) -> int:
        """When it has turned out to be wrong."""
        return self.deadline_micros + STALE_MICROS


def notice_in(seconds: float, source: str, now_micros: int) -> Notice:
    """A machine that ends so many seconds from now."""
    return Notice(deadline_micros=now_micros + round(seconds * SECOND), source=source)
