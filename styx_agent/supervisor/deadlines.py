"""When an attempt has to be looked at next: timeout, lease, grace, and whether it is gone yet. One timer for all.

Next: `attempt.py`, which acts; `rules.py`, which decides.
"""

from __future__ import annotations

from collections.abc import Callable

from styx_agent.supervisor import clock, rules
from styx_agent.supervisor.reactor import Reactor, Timer

_FIRST_LOOK_MICROS = 1_000
_SLOWEST_LOOK_MICROS = 100_000
_KILL_AGAIN_MICROS = 200_000


class Deadlines:
    """The times of one attempt.

    Args:
        lease_stop: when the attempt must go if no later beat is acked.
        tick: called when one of the times has come, or may have come.

    Attributes:
        kill_at: when what is being stopped is killed; None: nothing is being stopped.
        timeout_at: when the process that runs has run for too long.
    """

    def __init__(
        self, reactor: Reactor, lease_stop: Callable[[], rules.StopTimes | None], tick: Callable[[], None]
    ) -> None:
        self.kill_at: int | None = None
        self.timeout_at: int | None = None
        self._reactor = reactor
        self._lease_stop = lease_stop
        self._tick = tick
        self._killing = False
        self._look_micros = _FIRST_LOOK_MICROS
        self._timer: Timer | None = None

    def kill_by(self, at_micros: int) -> None:
        """Kills then, or earlier if that was the plan. A kill that has begun is not planned anew."""
        if not self._killing and (self.kill_at is None or at_micros < self.kill_at):
            self.kill_at = at_micros

    def kill_is_due(self, now: int) -> bool:
        """Whether to kill now; if so, the next time comes soon."""
        if self.kill_at is None or now < self.kill_at:
            return False
        self._killing = True
        self.kill_at = now + _KILL_AGAIN_MICROS
        return True

    def timeout_is_due(self, now: int) -> bool:
        """Whether the timeout has run out while nothing was being stopped."""
        return self.kill_at is None and self.timeout_at is not None and now >= self.timeout_at

    def lease_is_due(self, now: int) -> rules.StopTimes | None:
        """When to kill, if the lease demands that the attempt is stopped now."""
        times = self._lease_stop()
        return times if times is not None and now >= times.term_micros and not self._killing else None

    def arm(self, *, watch_for_end: bool) -> None:
        """Sets the timer for whatever comes first. A beat makes a lease longer; a timer that fires early looks again.

        Args:
            watch_for_end: look soon, and then less and less often, whether anything is left.
        """
        self.disarm()
        times = [at for at in (self.kill_at, self.timeout_at if self.kill_at is None else None) if at is not None]
        if watch_for_end and self.kill_at is not None:
            times.append(clock.boottime_micros() + self._look_micros)
            self._look_micros = min(self._look_micros * 2, _SLOWEST_LOOK_MICROS)
        lease = None if self._killing else self._lease_stop()
        if lease is not None:
            times.append(lease.term_micros if self.kill_at is None else lease.kill_micros)
        if times:
            self._timer = self._reactor.call_at(min(times), self._fire)

    def disarm(self) -> None:
        """Nothing is to be looked at."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self) -> None:
        self._timer = None
        self._tick()
