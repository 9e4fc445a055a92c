"""Removes the directories of attempts that are forgotten. A big one is removed by a process of its own.

Next: `warden.py`, which throws away.
"""

from __future__ import annotations

import contextlib
import os

_SMALL = 16
# What a task made unreadable for itself is made readable first.
_REMOVE = 'rm -rf -- "$1" 2>/dev/null || { chmod -R u+rwX -- "$1"; rm -rf -- "$1"; }'


class Trash:
    """The directory `trash/` and the processes that empty it."""

    def __init__(self, directory: str) -> None:
        self._path = os.path.join(directory, "trash")
        self._count = 0
        self.pids: set[int] = set()
        os.makedirs(self._path, mode=0o700, exist_ok=True)
        for name in os.listdir(self._path):
            with contextlib.suppress(OSError):
                self._remove(os.path.join(self._path, name))

    def throw_away(self, directory: str) -> None:
        """Removes a directory, at once if it holds little."""
        if _remove_small(directory):
            return
        self._count += 1
        target = os.path.join(self._path, f"{os.path.basename(directory)}.{os.getpid()}.{self._count}")
        with contextlib.suppress(OSError):  # the next start of the supervisor finds what stays
            os.rename(directory, target)
            self._remove(target)

    def on_exit(self, pid: int) -> None:
        """A child has been reaped."""
        self.pids.discard(pid)

    def _remove(self, path: str) -> None:
        env = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        self.pids.add(os.posix_spawn("/bin/sh", ["sh", "-c", _REMOVE, "sh", path], env, setsid=True))


def _remove_small(directory: str) -> bool:
    """Removes a flat directory with a few files; leaves anything else alone."""
    try:
        with os.scandir(directory) as entries:
            names = [entry.name for _, entry in zip(range(_SMALL + 1), entries, strict=False) if entry.is_file()]
        if len(names) > _SMALL:
            return False
        for name in names:
            os.unlink(os.path.join(directory, name))
        os.rmdir(directory)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
