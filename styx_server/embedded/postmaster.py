"""What runs on a cluster's files: read from `postmaster.pid` and /proc, and ended when it is a leftover.

A leftover is a server whose owner was killed before the kernel could be told, or one that is still going down. May not
start anything. The caller holds the folder's lock, so no other owner is at work meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from styx_server import clock
from styx_server.embedded.errors import INSTEAD, FolderUnusable

_POLITE_SECONDS = 30.0
_FIRM_SECONDS = 10.0
_STATUS_LINE = 7


def is_ready(data: Path, pid: int) -> bool:
    """Whether the postmaster `pid` of the cluster in `data` takes connections."""
    lines = _pid_file(data)
    return len(lines) > _STATUS_LINE and lines[0] == str(pid) and lines[_STATUS_LINE].strip() == "ready"


async def end_leftovers(data: Path) -> None:
    """Returns when no process uses the cluster in `data` any more.

    Raises:
        FolderUnusable: one does, and cannot be ended.
    """
    lines = _pid_file(data)
    postmaster = int(lines[0]) if lines and lines[0].isdigit() else 0
    users = _users(data)
    if postmaster in users:
        await _end([postmaster], signal.SIGINT, data, _POLITE_SECONDS)
    # Without a postmaster its children are going anyway; what they hold in memory is no longer anybody's.
    await _end(_users(data), signal.SIGQUIT, data, _FIRM_SECONDS)
    await _end(_users(data), signal.SIGKILL, data, _FIRM_SECONDS)
    if left := _users(data):
        raise FolderUnusable(f"processes {left} still use {data} and cannot be ended; end them, {INSTEAD}.")
    if postmaster and not _may_be_ours(postmaster, data):
        # The number belongs to somebody else by now, and PostgreSQL would believe that it is a server.
        (data / "postmaster.pid").unlink(missing_ok=True)


async def _end(pids: list[int], number: signal.Signals, data: Path, seconds: float) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
    deadline = clock.monotonic() + seconds
    while set(pids) & set(_users(data)) and clock.monotonic() < deadline:
        await clock.sleep(0.02)


def _users(data: Path) -> list[int]:
    """Living processes that work in `data`; every process of a server does."""
    place = data.resolve()
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [pid for pid in pids if _works_in(pid) == place]


def _may_be_ours(pid: int, data: Path) -> bool:
    """Whether `pid` lives, and works in `data` or does not let us see where."""
    if not Path(f"/proc/{pid}").exists():
        return False
    return _works_in(pid) in (data.resolve(), None)


def _works_in(pid: int) -> Path | None:
    # Of a zombie the link cannot be read, and so it does not count.
    try:
        return Path(f"/proc/{pid}/cwd").readlink()
    except OSError:
        return None


def _pid_file(data: Path) -> list[str]:
    try:
        return (data / "postmaster.pid").read_text(errors="replace").splitlines()
    except OSError:
        return []
