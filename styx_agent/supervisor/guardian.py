"""The guardian: a process that waits for the supervisor to die without a word, and then kills all that it started.

Without it, a supervisor that is killed together with its link would leave tasks behind that no lease ends. While it
waits it is a shell of one megabyte at the other end of a pipe; only then it becomes this program. It holds the
supervisor's lock, so no other supervisor starts anything before it has finished. Next: `recovery.py`, which kills.
"""

from __future__ import annotations

import hashlib
import os
import sys

_WAIT = 'trap "" HUP INT TERM; read -r word; [ "$word" = done ] || exec "$@"'


class Guardian:
    """The supervisor's end of the pipe.

    Args:
        arguments: command that kills what is left.
        lock: descriptor of the lock that the guardian shares.
    """

    def __init__(self, arguments: list[str], lock: int) -> None:
        self._arguments = arguments
        self._lock = lock
        self._writing = -1
        self.pid = 0

    def post(self) -> bool:
        """Starts it, or another one in place of one that has died; False when that cannot be done now."""
        self.pid = 0
        try:
            self._post()
        except OSError:
            return False
        return True

    def _post(self) -> None:
        if self._writing >= 0:
            os.close(self._writing)
            self._writing = -1
        null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        reading, self._writing = os.pipe2(os.O_CLOEXEC)
        try:
            self.pid = os.posix_spawn(
                "/bin/sh",
                ["sh", "-c", _WAIT, "styx-guardian", *self._arguments],
                {"PATH": os.defpath},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, reading, 0),
                    (os.POSIX_SPAWN_DUP2, null, 1),
                    (os.POSIX_SPAWN_DUP2, self._lock, 9),
                ],
                setsid=True,
            )
        finally:
            os.close(reading)
            os.close(null)

    def dismiss(self) -> None:
        """Nothing is left to guard."""
        if not self.pid:
            return
        os.write(self._writing, b"done\n")
        os.close(self._writing)
        os.waitpid(self.pid, 0)


def arguments(directory: str, root: str, *, cgroup: bool) -> list[str]:
    """The command that a guardian becomes."""
    start = f"import sys; sys.path.insert(0, {root!r}); from styx_agent.supervisor.guardian import main; main()"
    return [sys.executable, "-I", "-S", "-c", start, directory, "cgroup" if cgroup else "no-cgroup"]


def tag_of(directory: str) -> bytes:
    """What tells the processes and groups of this data directory from those of others."""
    return hashlib.sha256(directory.encode()).digest()


def main() -> None:
    """Kills everything that the dead supervisor has started."""
    from styx_agent.supervisor import recovery
    from styx_agent.supervisor.cgroups import find_cgroups
    from styx_agent.supervisor.marks import Marks

    directory, cgroup = sys.argv[1:3]
    tag = tag_of(directory)
    cgroups = find_cgroups(cgroup_name(tag)) if cgroup == "cgroup" else None
    recovery.kill_leftovers(marks=Marks(int.from_bytes(tag[:4], "big")), cgroups=cgroups)
    if cgroups is not None:
        cgroups.close()


def cgroup_name(tag: bytes) -> str:
    """Name of the group around all groups of this data directory."""
    return f"styx-{tag.hex()[:10]}"
