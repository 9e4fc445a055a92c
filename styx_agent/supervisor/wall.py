"""The wall around one attempt: reach every process inside, and know when none is left.

A control group where there is one, the marks always: they find who left the group, and are the whole wall for an
ordinary user. Decides nothing about when. Next: `attempt.py`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Collection

from styx_agent.supervisor.cgroups import Cgroup
from styx_agent.supervisor.marks import Marks, is_alive, own_children, send_if

_FREEZE_PASSES = 50


class Wall:
    """Everything that belongs to one attempt.

    Args:
        orphans: children of the supervisor that nobody started on purpose, live ones only.
    """

    def __init__(self, fence: int, marks: Marks, cgroup: Cgroup | None, orphans: Callable[[], Collection[int]]) -> None:
        self._fence = fence
        self._marks = marks
        self._cgroup = cgroup
        self._orphans = orphans
        self._oom = False

    @property
    def mark(self) -> int:
        """What a new process must carry."""
        return self._marks.mark(self._fence)

    @property
    def cgroup(self) -> Cgroup | None:
        """Where a new process must be born."""
        return self._cgroup

    def ask(self) -> None:
        """SIGTERM to all, and SIGCONT, so that stopped ones hear it too."""
        pids = self._in_cgroup()
        if pids:
            inside = set(self._in_cgroup())
            for pid in pids:
                send_if(pid, lambda pid=pid: pid in inside, signal.SIGTERM, signal.SIGCONT)  # type: ignore[misc]
            return
        self._marks.send(self._marks.members(self._fence), self._fence, signal.SIGTERM, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL to all."""
        if self._cgroup is not None:
            self._cgroup.kill()
        self._kill_marked()

    def gone(self) -> bool:
        """Proof that nothing is left. To be asked when the main process has been reaped."""
        if self._cgroup is not None:
            self._oom = self._oom or self._cgroup.oom_killed()
            if not self._cgroup.remove():
                return False
            self._cgroup = None
        # A live descendant always has a live ancestor that is our child, so no orphans means no descendants.
        return not self._orphans() or not self._marks.members(self._fence)

    def oom_killed(self) -> bool:
        """Whether the kernel killed something inside for memory."""
        return self._oom or (self._cgroup is not None and self._cgroup.oom_killed())

    def _in_cgroup(self) -> list[int]:
        return [] if self._cgroup is None else self._cgroup.processes()

    def _kill_marked(self) -> None:
        """Stops all before it kills any: a stopped process cannot fork, so no child gets away between two looks."""
        stopped: set[int] = set()
        for _ in range(_FREEZE_PASSES):
            fresh = [pid for pid in self._marks.members(self._fence) if pid not in stopped]
            if not fresh:
                break
            self._marks.send(fresh, self._fence, signal.SIGSTOP)
            stopped.update(fresh)
        self._marks.send(stopped, self._fence, signal.SIGKILL)


def live_orphans(started: Collection[int]) -> list[int]:
    """Children of this process that are not in `started`; where the kernel does not list them: all that are alive."""
    children = own_children()
    if children is None:
        children = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [pid for pid in children if pid not in started and is_alive(pid)]
