"""The end of this machine, once its provider has announced it: when whatever runs here is killed.

Decides times, stops nothing itself. Next: `warden.py`, which asks before it stops or starts anything.
"""

from __future__ import annotations


class Eviction:
    """Nothing is announced, as long as nobody calls `announce`."""

    def __init__(self) -> None:
        self._kill_at = 0
        self._over_at = 0

    def announce(self, kill_at_micros: int, over_at_micros: int) -> None:
        """The machine goes.

        Args:
            kill_at_micros: what has not ended by then is killed, so that its end and its output can still be told.
            over_at_micros: a machine that is still there by then stays: the announcement was wrong.
        """
        self._kill_at, self._over_at = kill_at_micros, over_at_micros

    def holds(self, now_micros: int) -> bool:
        """Whether the machine is going."""
        return now_micros < self._over_at

    def grace(self, now_micros: int) -> int:
        """All the time there is."""
        return max(0, self._kill_at - now_micros)

    def grace_of(self, cause: str, asked_micros: int | None, now_micros: int) -> int | None:
        """The grace of a stop, given what was asked for.

        A server that stops attempts because their machine goes away asks for no certain time, and must not take away
        from what there is.
        """
        if cause == "PREEMPT" and asked_micros is None and self.holds(now_micros):
            return self.grace(now_micros)
        return asked_micros
