"""Says which processes still belong to a data folder: they work below it, or name it in their command or environment.

`python -m tools.leftovers DIR` prints them and exits with 1 when there are any. It looks and touches nothing.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def leftovers(folder: Path) -> dict[int, str]:
    """Processes, other than the caller and its parents, that have to do with `folder`: pid and command."""
    mark = os.fsencode(folder.resolve())
    mine = _me_and_my_parents()
    found: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) not in mine and _belongs(entry, mark):
            found[int(entry.name)] = _read(entry / "cmdline").replace(b"\0", b" ").decode(errors="replace").strip()
    return found


def main() -> None:
    """Prints what is left of the folder on the command line."""
    left = leftovers(Path(sys.argv[1]))
    for pid, command in sorted(left.items()):
        print(pid, command)
    raise SystemExit(1 if left else 0)


def _belongs(entry: Path, mark: bytes) -> bool:
    try:
        place = os.fsencode((entry / "cwd").readlink())
    except OSError:
        # Gone meanwhile, a zombie, or somebody else's.
        return False
    return place.startswith(mark) or mark in _read(entry / "cmdline") or mark in _read(entry / "environ")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _me_and_my_parents() -> set[int]:
    pids: set[int] = set()
    pid = os.getpid()
    while pid > 0 and pid not in pids:
        pids.add(pid)
        status = _read(Path(f"/proc/{pid}/stat"))
        pid = int(status.rpartition(b")")[2].split()[1]) if status else 0
    return pids


if __name__ == "__main__":
    main()
