"""Whose process is this? A mark that every process of an attempt carries and cannot lose by accident.

The mark is the soft limit RLIMIT_RTTIME, set to an enormous number that holds the agent and the fence. Limits pass
through fork, exec, setsid, a cleaned environment and a rewritten process title; only real-time processes ever meet this
one, and not in this universe's lifetime. Thus descendants are found without privileges and without races, also by a
supervisor that was started after theirs had died. Next: `wall.py`.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Callable, Collection

_FENCE_BITS = 42
_TAG_BITS = 20
_BASE = 1 << (_FENCE_BITS + _TAG_BITS)


class Marks:
    """The marks of one agent."""

    def __init__(self, tag: int) -> None:
        self._prefix = _BASE | (tag % (1 << _TAG_BITS)) << _FENCE_BITS

    def mark(self, fence: int) -> int:
        """The value for a new process of this attempt."""
        return self._prefix | fence

    def fence_of(self, pid: int) -> int | None:
        """Which attempt of this agent a process belongs to; None: to none, or it is gone."""
        mark = _mark_of(pid)
        if mark is None or mark >> _FENCE_BITS != self._prefix >> _FENCE_BITS:
            return None
        return mark & ((1 << _FENCE_BITS) - 1)

    def scan(self) -> dict[int, list[int]]:
        """Every live process with a mark of this agent, by fence."""
        found: dict[int, list[int]] = {}
        for name in os.listdir("/proc"):
            if name.isdigit():
                pid = int(name)
                fence = self.fence_of(pid)
                if fence is not None and pid != os.getpid() and is_alive(pid):
                    found.setdefault(fence, []).append(pid)
        return found

    def members(self, fence: int) -> list[int]:
        """Every live process of one attempt."""
        return self.scan().get(fence, [])

    def send(self, pids: Collection[int], fence: int, *signals: signal.Signals) -> None:
        """Signals processes of an attempt, and nobody who got one of their numbers meanwhile."""
        for pid in pids:
            send_if(pid, lambda pid=pid: self.fence_of(pid) == fence, *signals)  # type: ignore[misc]


def send_if(pid: int, still_it: Callable[[], bool], *signals: signal.Signals) -> None:
    """Signals a process through a descriptor of it, taken before the last look at whether it is the right one."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if still_it():
            for number in signals:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    signal.pidfd_send_signal(fd, number)
    finally:
        os.close(fd)


def own_children() -> list[int] | None:
    """Direct children of this process, orphans that came to it included; None: this kernel does not tell."""
    try:
        with open(f"/proc/self/task/{os.getpid()}/children", "rb", buffering=0) as file:
            return [int(pid) for pid in file.readall().split()]
    except OSError:
        return None


def is_alive(pid: int) -> bool:
    """Whether a process exists and is more than a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except (OSError, IndexError):
        return False


def _mark_of(pid: int) -> int | None:
    try:
        return resource.prlimit(pid, resource.RLIMIT_RTTIME)[0]
    except ProcessLookupError:
        return None
    except PermissionError:
        return _mark_from_limits(pid)
    except OSError:
        return None


def _mark_from_limits(pid: int) -> int | None:
    """For processes of another user, such as one that went through sudo."""
    try:
        with open(f"/proc/{pid}/limits", encoding="ascii") as file:
            line = next(line for line in file if line.startswith("Max realtime timeout"))
        return int(line.split()[3])
    except (OSError, StopIteration, ValueError):
        return None
