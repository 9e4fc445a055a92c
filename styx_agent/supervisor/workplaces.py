"""Working directories. Each attempt has one that is empty when it begins, and alone uses it.

One that was left untouched is used again, since making and removing directories costs more than starting a small
program; nothing of an attempt can be in it. Any other is thrown away. Next: `attempt.py`, which takes one.
"""

from __future__ import annotations

import contextlib
import os

from styx_agent.supervisor.trash import Trash

_KEPT = 64

_Look = tuple[int, int, int, int]


class Workplaces:
    """The directory `work/`."""

    def __init__(self, directory: str, trash: Trash) -> None:
        self._path = os.path.join(directory, "work")
        self._trash = trash
        self._count = 0
        self._looks: dict[str, _Look] = {}
        self._free: list[str] = []
        os.makedirs(self._path, mode=0o700, exist_ok=True)
        for name in os.listdir(self._path):  # of attempts that died with their supervisor
            self._trash.throw_away(os.path.join(self._path, name))

    def take(self) -> str:
        """An empty directory.

        Raises:
            OSError: it cannot be made.
        """
        while self._free:
            path = self._free.pop()
            if self._is_untouched(path):
                return path
            self._drop(path)
        self._count += 1
        path = os.path.join(self._path, f"{self._count}")
        os.mkdir(path, 0o700)
        self._looks[path] = _look(path)
        return path

    def give_back(self, path: str) -> None:
        """Its attempt is over, and no process of it is left."""
        if len(self._free) < _KEPT and self._is_untouched(path):
            self._free.append(path)
        else:
            self._drop(path)

    def _is_untouched(self, path: str) -> bool:
        with contextlib.suppress(OSError):
            # The time of the last change may be coarser than the time since it was made, so it is not enough.
            return _look(path) == self._looks[path] and not os.listdir(path)
        return False

    def _drop(self, path: str) -> None:
        del self._looks[path]
        self._trash.throw_away(path)


def _look(path: str) -> _Look:
    now = os.lstat(path)
    return now.st_mode, now.st_uid, now.st_ino, now.st_ctime_ns
