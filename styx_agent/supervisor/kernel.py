"""The few system calls that Python 3.11 does not offer. Calls, decides nothing. Next: `spawn.py`, `reactor.py`."""

from __future__ import annotations

import ctypes
import os

_CLOCK_BOOTTIME = 7
_TFD_NONBLOCK, _TFD_CLOEXEC, _TFD_TIMER_ABSTIME = 0o4000, 0o2000000, 1
_PR_SET_CHILD_SUBREAPER = 36
_SYS_CLONE3 = 435
_CLONE_CLEAR_SIGHAND = 0x1_0000_0000
_CLONE_INTO_CGROUP = 0x2_0000_0000
_SIGCHLD = 17

# PyDLL keeps the GIL during a call. After clone3 the child must own it, as the parent does.
_libc = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _CloneArgs(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "flags",
            "pidfd",
            "child_tid",
            "parent_tid",
            "exit_signal",
            "stack",
            "stack_size",
            "tls",
            "set_tid",
            "set_tid_size",
            "cgroup",
        )
    ]


class _TimerSpec(ctypes.Structure):
    _fields_ = [(name, ctypes.c_long) for name in ("interval_s", "interval_ns", "value_s", "value_ns")]


def fork_into_cgroup(cgroup_fd: int) -> int:
    """Forks; the child is born inside the cgroup, so there is no moment in which it could escape.

    It has none of our signal handlers: what is meant for it acts on it as on any program, and is never taken for a
    signal to us. What is ignored here is ignored there too. The child may do nothing but prepare and exec: Python has
    not been told that it was forked, and each page that it touches is copied.

    Raises:
        OSError: the kernel or a filter does not know `clone3` with a cgroup.
    """
    args = _CloneArgs(flags=_CLONE_INTO_CGROUP | _CLONE_CLEAR_SIGHAND, exit_signal=_SIGCHLD, cgroup=cgroup_fd)
    pid = int(_libc.syscall(_SYS_CLONE3, ctypes.byref(args), ctypes.sizeof(args)))
    if pid < 0:
        raise _error("clone3")
    return pid


def become_subreaper() -> None:
    """Makes this process the parent of every descendant that loses its own."""
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise _error("prctl")


def boottime_timer() -> int:
    """A descriptor that becomes readable at a time of CLOCK_BOOTTIME, which counts suspended time too."""
    fd = int(_libc.timerfd_create(_CLOCK_BOOTTIME, _TFD_NONBLOCK | _TFD_CLOEXEC))
    if fd < 0:
        raise _error("timerfd_create")
    return fd


def set_timer(fd: int, at_micros: int) -> None:
    """Arms the timer for a time; 0 disarms it."""
    spec = _TimerSpec(0, 0, at_micros // 1_000_000, at_micros % 1_000_000 * 1000)
    if _libc.timerfd_settime(fd, _TFD_TIMER_ABSTIME, ctypes.byref(spec), None):
        raise _error("timerfd_settime")


def _error(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")
