"""Starts one process: born behind its wall, with nothing of ours in its hands.

Two ways, because each is slow where the other is quick. `posix_spawn` borrows our memory until the exec (no copy of
page tables), but it cannot name a control group: the child inherits ours, so this process steps into the group for that
moment. The step costs 5 ms and more when the kernel has not seen one for a while, and next to nothing in a burst. So
the first of a burst is forked straight into its group (`clone3`) and those that follow come by the step. Either way a
child is inside before it can fork. Knows nothing of attempts. Next: `attempt.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from styx_agent.supervisor import clock, kernel
from styx_agent.supervisor.cgroups import Cgroup, step_into

_TASK_OOM_SCORE = b"500"
_SUPERVISOR_OOM_SCORE = b"-900"
_BURST_MICROS = 20_000
"""Measured on Linux 6.18: up to that long after the last step the next one takes 0.1 ms, after twice as long 8 ms."""
_PERHAPS_IGNORED = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP)
_REPORT_BYTES = 64 << 10  # all that the pipe holds
_NO_PATH = "/usr/bin:/bin"


class CannotStart(Exception):
    """The program cannot be run; the text says why, in words for the user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One process to start.

    Attributes:
        env: the whole environment.
        mark: see `marks.py`.
        cgroup: the group to be born in.
    """

    argv: list[str]
    env: dict[str, str]
    cwd: str
    stdout: int
    stderr: int
    mark: int
    cgroup: Cgroup | None


class Spawner:
    """Starts processes and tells which could not become what they should."""

    def __init__(self, home: Cgroup | None) -> None:
        self._home = home
        self._null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self._reports, self._report_to = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._own_files = self._task_files = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._own_rttime = resource.getrlimit(resource.RLIMIT_RTTIME)
        self._errors: dict[int, str] = {}
        self._last_micros = 0
        signal.pthread_sigmask(signal.SIG_SETMASK, ())  # also inherited, perhaps from whoever started us
        for number in _PERHAPS_IGNORED:  # ignoring is inherited, a handler that does nothing is not
            if signal.getsignal(number) is signal.SIG_IGN:
                signal.signal(number, lambda *_: None)
        # Each running attempt holds two pipes and up to two files here.
        self._own_files = (self._task_files[1], self._task_files[1])
        resource.setrlimit(resource.RLIMIT_NOFILE, self._own_files)

    def spawn(self, launch: Launch) -> int:
        """The process id; the caller reaps it.

        Raises:
            CannotStart: there is no such program or directory, or it must not be used.
            OSError: no process could be made.
        """
        now = clock.boottime_micros()
        burst = now - self._last_micros < _BURST_MICROS
        try:
            os.chdir(launch.cwd)
        except OSError as error:
            raise CannotStart(f"cannot enter the directory {launch.cwd!r}: {error.strerror}") from None
        try:
            program = find_program(launch.argv[0], launch.env.get("PATH", _NO_PATH))
            if launch.cgroup is None:
                return self._spawn(program, launch)
            if burst and self._home is not None:
                return self._spawn_from_within(program, launch, launch.cgroup, self._home)
            return self._fork(program, launch, launch.cgroup)
        finally:
            os.chdir("/")
            self._last_micros = clock.boottime_micros()

    def error_of(self, pid: int) -> str:
        """Why a process that has ended never became its program; empty if it did."""
        with contextlib.suppress(BlockingIOError):
            for line in os.read(self._reports, _REPORT_BYTES).splitlines():
                reporter, words = json.loads(line)
                self._errors[reporter] = words
        return self._errors.pop(pid, "")

    def _spawn_from_within(self, program: str, launch: Launch, cgroup: Cgroup, home: Cgroup) -> int:
        step_into(cgroup)
        try:
            return self._spawn(program, launch)
        finally:
            step_into(home)

    def _spawn(self, program: str, launch: Launch) -> int:
        actions = [
            (os.POSIX_SPAWN_DUP2, self._null, 0),
            (os.POSIX_SPAWN_DUP2, launch.stdout, 1),
            (os.POSIX_SPAWN_DUP2, launch.stderr, 2),
        ]
        try:
            with self._limits_of(launch):
                pid = os.posix_spawn(program, launch.argv, launch.env, file_actions=actions, setsid=True, setsigmask=())
        except (OSError, ValueError) as error:
            raise _cannot_run(launch.argv[0], error) from None
        set_oom_score(_TASK_OOM_SCORE, pid)
        return pid

    @contextlib.contextmanager
    def _limits_of(self, launch: Launch) -> Iterator[None]:
        """Gives this process the limits that a child is to inherit."""
        resource.setrlimit(resource.RLIMIT_RTTIME, (launch.mark, self._own_rttime[1]))
        resource.setrlimit(resource.RLIMIT_NOFILE, self._task_files)
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, self._own_files)
            resource.setrlimit(resource.RLIMIT_RTTIME, self._own_rttime)

    def _fork(self, program: str, launch: Launch, cgroup: Cgroup) -> int:
        with self._limits_of(launch), cgroup.opened() as fd:
            pid = kernel.fork_into_cgroup(fd)
            if pid == 0:
                self._become(program, launch)
        set_oom_score(_TASK_OOM_SCORE, pid)
        return pid

    def _become(self, program: str, launch: Launch) -> NoReturn:
        try:
            os.setsid()
            os.dup2(self._null, 0)
            os.dup2(launch.stdout, 1)
            os.dup2(launch.stderr, 2)
            os.execve(program, launch.argv, launch.env)  # noqa: S606 - no shell is the point
        except BaseException as error:  # noqa: BLE001 - nothing may return into the parent's code
            line = json.dumps([os.getpid(), str(_cannot_run(launch.argv[0], error))])
            os.write(self._report_to, line.encode("ascii") + b"\n")  # below PIPE_BUF, so reports never mix
        finally:
            os._exit(127)


def find_program(name: str, path: str) -> str:
    """Where a program is, by the task's own PATH, seen from its directory.

    Raises:
        CannotStart: nowhere.
    """
    if "\0" in name or not name:
        raise CannotStart(f"cannot run {name[:200]!r}: not a name of a program")
    if "/" in name:
        return name
    for directory in path.split(":"):
        candidate = f"{directory or '.'}/{name}"
        if os.access(candidate, os.X_OK) and not os.path.isdir(candidate):
            return candidate
    raise CannotStart(f"cannot run {name[:200]!r}: no such program in PATH")


def set_oom_score(score: bytes, pid: int | None = None) -> None:
    """How gladly the kernel kills a process when memory runs out; lowering it takes privilege, and may fail."""
    with contextlib.suppress(OSError):
        fd = os.open(f"/proc/{pid or 'self'}/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, score)
        finally:
            os.close(fd)


def protect_supervisor() -> None:
    """Lets the kernel take the tasks before their parent."""
    set_oom_score(_SUPERVISOR_OOM_SCORE)


def _cannot_run(name: str, error: BaseException) -> CannotStart:
    why = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return CannotStart(f"cannot run {name[:200]!r}: {why[:200]}")
