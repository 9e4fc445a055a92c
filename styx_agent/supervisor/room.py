"""What attempts hold of this machine, and those that wait for some of it, in the order in which they came.

The server gives an agent a little more than it has room for, so that the next attempt starts the moment one ends and
not a round trip later. What waits is nowhere on disk: nothing of it has begun, and the link says the order again to
another supervisor. What waits for too long is given back. Next: `warden.py`, which starts what is admitted.
"""

from __future__ import annotations

from dataclasses import dataclass

from styx_agent.supervisor import clock, rules
from styx_agent.supervisor.attempt import Attempt
from styx_agent.supervisor.reactor import Reactor


@dataclass(frozen=True, slots=True)
class _Waiting:
    attempt: Attempt
    until_micros: int


class Room:
    """Processor time and memory. As long as its size is not known there is room for everything."""

    def __init__(self) -> None:
        self._total: rules.Need | None = None
        self._used = rules.Need(cpus_milli=0, memory_bytes=0)
        self._held: dict[int, rules.Need] = {}
        self._waiting: dict[int, _Waiting] = {}
        self._looking = False

    def resize(self, total: rules.Need) -> None:
        """The machine has this much for attempts."""
        self._total = total

    def enter(self, attempt: Attempt) -> None:
        """One more waits for its turn."""
        until = clock.boottime_micros() + rules.GIVE_BACK_MICROS
        self._waiting[attempt.order.fence] = _Waiting(attempt, until)

    def leave(self, fence: int) -> None:
        """An attempt has ended, begun or not."""
        self._waiting.pop(fence, None)
        if need := self._held.pop(fence, None):
            self._used -= need

    def admit(self, reactor: Reactor) -> list[Attempt]:
        """Those whose turn has come; from now on they hold what they need."""
        admitted: list[Attempt] = []
        while self._waiting:
            fence, waiting = next(iter(self._waiting.items()))
            need = waiting.attempt.order.need
            # What needs more than there is at all is the server's mistake, and must not wait for ever.
            if self._held and self._total is not None and not (self._used + need).fits(self._total):
                break
            del self._waiting[fence]
            self._held[fence] = need
            self._used += need
            admitted.append(waiting.attempt)
        self._look_later(reactor)
        return admitted

    def _look_later(self, reactor: Reactor) -> None:
        if self._waiting and not self._looking:
            self._looking = True
            first = next(iter(self._waiting.values()))
            reactor.call_at(first.until_micros, self._give_back)

    def _give_back(self) -> None:
        self._looking = False
        now = clock.boottime_micros()
        for waiting in [waiting for waiting in self._waiting.values() if waiting.until_micros <= now]:
            waiting.attempt.stop("RETURN", 0)
