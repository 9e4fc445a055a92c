"""Control groups: limits, and a wall that no process of an attempt can leave.

Version 2 only, also where it is mounted beside version 1 without controllers: killing and counting work there, limits
do not, and `isolation` says so. Knows nothing of attempts. Next: `wall.py`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from styx_agent.supervisor import kernel

_WANTED = ("memory", "cpu", "pids")
_MAX_PROCESSES = 32768


class Cgroup:
    """One group, for one attempt."""

    def __init__(self, path: str, *, limits_memory: bool = False) -> None:
        self.path = path
        self._limits_memory = limits_memory

    @contextlib.contextmanager
    def opened(self) -> Iterator[int]:
        """A descriptor for `kernel.fork_into_cgroup`."""
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)

    def limit_memory(self, limit_bytes: int) -> None:
        """Bounds it. Only once the first process is in: a step of the supervisor must never meet a limit."""
        _write(f"{self.path}/memory.oom.group", "1")
        with contextlib.suppress(OSError):
            _write(f"{self.path}/memory.swap.max", "0")
        _write(f"{self.path}/memory.max", str(limit_bytes))

    def processes(self) -> list[int]:
        """Every process in it and below it."""
        pids: list[int] = []
        for directory, _, _ in os.walk(self.path):
            with contextlib.suppress(OSError), open(os.path.join(directory, "cgroup.procs"), encoding="ascii") as file:
                pids += [int(line) for line in file]
        return [pid for pid in pids if pid]

    def kill(self) -> None:
        """SIGKILL to all of them at once; forks under way do not get away."""
        with contextlib.suppress(OSError):  # whoever asks looks again, and asks again
            _write(os.path.join(self.path, "cgroup.kill"), "1")

    def populated(self) -> bool:
        """Whether any live process is in it or below it."""
        return _events(self.path, "cgroup.events").get("populated", 0) != 0

    def oom_killed(self) -> bool:
        """Whether the kernel has killed something of it for memory."""
        return self._limits_memory and _events(self.path, "memory.events").get("oom_kill", 0) > 0

    def remove(self) -> bool:
        """Removes it if it is empty; whether it is gone. The kernel refuses while a process is in it."""
        with contextlib.suppress(FileNotFoundError):
            try:
                os.rmdir(self.path)
            except OSError:
                return self._remove_tree()
        return True

    def _remove_tree(self) -> bool:
        if self.populated():
            return False
        try:
            for directory, _, _ in os.walk(self.path, topdown=False):
                os.rmdir(directory)
        except OSError:
            return not os.path.exists(self.path)
        return True


class Cgroups:
    """The place below which the groups of this agent are made."""

    def __init__(self, base: str, home: Cgroup) -> None:
        self._base = base
        self.home = home
        self.controllers = frozenset(_read(os.path.join(base, "cgroup.subtree_control")).split())

    @property
    def limits_memory(self) -> bool:
        """Whether memory can be bounded here."""
        return "memory" in self.controllers

    def make(self, fence: int, *, cpus: float) -> Cgroup:
        """A group with its share of the processors, as far as there are controllers."""
        path = os.path.join(self._base, str(fence))
        try:
            os.mkdir(path)
        except FileNotFoundError:  # somebody has tidied up the empty place
            os.mkdir(self._base)
            _enable(self._base)
            os.mkdir(path)
        if "pids" in self.controllers:
            _write(f"{path}/pids.max", str(_MAX_PROCESSES))
        if "cpu" in self.controllers:
            _write(f"{path}/cpu.weight", str(min(10000, max(1, round(cpus * 100)))))
        return Cgroup(path, limits_memory=self.limits_memory)

    def leftovers(self) -> list[tuple[int, Cgroup]]:
        """Groups that an earlier supervisor left behind, by fence."""
        names = [name for name in os.listdir(self._base) if name.isdigit()]
        return [(int(name), Cgroup(os.path.join(self._base, name))) for name in names]

    def close(self) -> None:
        """Removes the place, if nothing is in it."""
        with contextlib.suppress(OSError):
            os.rmdir(self._base)


def find_cgroups(name: str) -> Cgroups | None:
    """The place for groups if this machine and this user allow them and children can be born in one; else None.

    Where memory can be bounded if there is such a place, else where groups can be made at all.
    """
    mount = _mount_point()
    candidates = _candidates(mount) if mount is not None else []
    usable: list[Cgroups] = []
    for parent in candidates:
        base = os.path.join(parent, name)
        with contextlib.suppress(OSError):
            _enable(parent)
            with contextlib.suppress(FileExistsError):
                os.mkdir(base)
            _enable(base)
            cgroups = Cgroups(base, home=Cgroup(candidates[0]))
            _probe(cgroups)
            usable.append(cgroups)
    usable.sort(key=lambda cgroups: not cgroups.limits_memory)
    for unused in usable[1:]:
        unused.close()
    return usable[0] if usable else None


def step_into(group: Cgroup) -> None:
    """Moves this process.

    Raises:
        OSError: the kernel does not allow it.
    """
    _write(f"{group.path}/cgroup.procs", "0")


def isolation(cgroups: Cgroups | None) -> str:
    """How attempts are walled in, in words for people; exactly `cgroup` when nothing is missing."""
    if cgroups is None:
        return "process group; no memory limit: cgroup v2 cannot be used here"
    if not cgroups.limits_memory:
        return "cgroup; no memory limit: cgroup v2 memory controller missing"
    return "cgroup"


def _mount_point() -> str | None:
    for line in _read("/proc/self/mountinfo").splitlines():
        head, _, tail = line.partition(" - ")
        if tail.startswith("cgroup2 "):
            return head.split()[4].replace("\\040", " ")
    return None


def _candidates(mount: str) -> list[str]:
    """Our own group, and the one around it if the service manager has left it to us.

    Our own holds this process, and the kernel passes no controllers on from a group that holds processes.
    """
    for line in _read("/proc/self/cgroup").splitlines():
        if line.startswith("0::"):
            path = line[3:].strip("/")
            own = os.path.join(mount, path) if path else mount
            around = os.path.dirname(own)
            return [own, around] if path and _is_delegated(around) else [own]
    return []


def _is_delegated(path: str) -> bool:
    for name in ("trusted.delegate", "user.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(path, name) == b"1":
                return True
    return False


def _enable(path: str) -> None:
    """Passes controllers on to the groups below; one by one, so that one that is missing spoils no other."""
    available = _read(os.path.join(path, "cgroup.controllers")).split()
    for controller in _WANTED:
        if controller in available:
            with contextlib.suppress(OSError):
                _write(os.path.join(path, "cgroup.subtree_control"), f"+{controller}")


def _probe(cgroups: Cgroups) -> None:
    """Tries a birth and a kill switch for real.

    Raises:
        OSError: it does not work here.
    """
    group = cgroups.make(0, cpus=1)
    try:
        os.stat(os.path.join(group.path, "cgroup.kill"))
        with group.opened() as fd:
            pid = kernel.fork_into_cgroup(fd)
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        step_into(group)
        step_into(cgroups.home)
    finally:
        group.remove()


def _events(path: str, name: str) -> dict[str, int]:
    pairs = (line.split() for line in _read(os.path.join(path, name)).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode("ascii"))
    finally:
        os.close(fd)
