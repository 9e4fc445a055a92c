"""Every child of the supervisor: which belong to attempts, which are its own helpers, and which came to it as orphans.

Next: `warden.py`, which starts them.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from styx_agent.supervisor import clock
from styx_agent.supervisor.attempt import Attempt
from styx_agent.supervisor.guardian import Guardian
from styx_agent.supervisor.trash import Trash
from styx_agent.supervisor.wall import live_orphans


class Children:
    """Reaps them all.

    Args:
        call_after: makes a call that many microseconds later.
    """

    def __init__(
        self, trash: Trash, guardian: Guardian, call_after: Callable[[int, Callable[[], None]], object]
    ) -> None:
        self._trash = trash
        self._guardian = guardian
        self._call_after = call_after
        self._attempts: dict[int, Attempt] = {}
        self._orphans: list[int] | None = None

    def started(self, pid: int, attempt: Attempt) -> None:
        """A process is to be reaped for an attempt."""
        self._attempts[pid] = attempt

    def orphans(self) -> list[int]:
        """Live children that nobody started on purpose; looked up once a round."""
        if self._orphans is None:
            self._orphans = live_orphans({*self._attempts, *self._trash.pids, self._guardian.pid})
        return self._orphans

    def new_round(self) -> None:
        """What was seen is old."""
        self._orphans = None

    def reap(self, _events: int = 0) -> None:
        """Takes every child that has ended."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._orphans = None
            if attempt := self._attempts.pop(pid, None):
                attempt.on_exit(pid, status, usage)
            elif pid == self._guardian.pid:
                self._post_guardian()
            else:
                self._trash.on_exit(pid)

    def _post_guardian(self) -> None:
        if not self._guardian.post():
            self._call_after(clock.SECOND, self._post_guardian)
