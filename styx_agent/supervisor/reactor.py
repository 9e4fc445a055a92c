"""One thread that waits for descriptors and for times.

asyncio would do, at twice the memory and half the speed; here every event is a plain call. Handlers must not block and
must bear being called for nothing. Next: `warden.py`, whose handlers they are.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import select
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from styx_agent.supervisor import clock, kernel

READ = select.EPOLLIN
WRITE = select.EPOLLOUT


@dataclass(slots=True, order=True)
class Timer:
    """A call to be made at a time of CLOCK_BOOTTIME."""

    at_micros: int
    number: int
    call: Callable[[], None] | None = field(compare=False)

    def cancel(self) -> None:
        """Makes sure that the call is not made."""
        self.call = None


class Reactor:
    """Waits, calls, and after each round calls the one who gathers (`after_round`)."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, tuple[int, Callable[[int], None]]] = {}
        self._timers: list[Timer] = []
        self._count = 0
        self._timer_fd = kernel.boottime_timer()
        self._armed = 0
        self._running = True
        self.watch(self._timer_fd, READ, self._drain_timer)

    def watch(self, fd: int, events: int, handler: Callable[[int], None]) -> None:
        """Calls the handler with the events whenever the descriptor is ready; replaces an earlier wish."""
        if (known := self._handlers.get(fd)) is None:
            self._epoll.register(fd, events)
        elif known[0] != events:
            self._epoll.modify(fd, events)
        self._handlers[fd] = (events, handler)

    def unwatch(self, fd: int) -> None:
        """Ends a wish. To be called before the descriptor is closed."""
        if self._handlers.pop(fd, None) is not None:
            with contextlib.suppress(OSError):
                self._epoll.unregister(fd)

    def call_at(self, at_micros: int, call: Callable[[], None]) -> Timer:
        """Calls once, at the time or soon after it."""
        self._count += 1
        timer = Timer(at_micros, self._count, call)
        heapq.heappush(self._timers, timer)
        return timer

    def call_after(self, micros: int, call: Callable[[], None]) -> Timer:
        """Calls once, that long from now."""
        return self.call_at(clock.boottime_micros() + micros, call)

    def stop(self) -> None:
        """Lets `run` return after this round."""
        self._running = False

    def run(self, after_round: Callable[[], bool]) -> None:
        """Goes round until stopped. `after_round` says whether it left work behind for an immediate next round."""
        hurry = after_round()
        while self._running:
            self._arm()
            for fd, events in self._epoll.poll(0 if hurry else -1):
                if (known := self._handlers.get(fd)) is not None:
                    with _surviving():
                        known[1](events)
            self._fire()
            hurry = False
            with _surviving():
                hurry = after_round()

    def _arm(self) -> None:
        while self._timers and self._timers[0].call is None:
            heapq.heappop(self._timers)
        first = max(1, self._timers[0].at_micros) if self._timers else 0
        if first != self._armed:
            kernel.set_timer(self._timer_fd, first)
            self._armed = first

    def _fire(self) -> None:
        if not self._timers:
            return
        now = clock.boottime_micros()
        while self._timers and self._timers[0].at_micros <= now:
            call = heapq.heappop(self._timers).call
            if call is not None:
                with _surviving():
                    call()

    def _drain_timer(self, _events: int) -> None:
        self._armed = 0
        with contextlib.suppress(BlockingIOError):
            os.read(self._timer_fd, 8)


@contextlib.contextmanager
def _surviving() -> Iterator[None]:
    """A bug about one attempt must not end the parent of all the others: it is written to the log instead."""
    try:
        yield
    except Exception:  # noqa: BLE001 - see above
        traceback.print_exc()
        sys.stderr.flush()
