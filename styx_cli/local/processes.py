"""Processes of this machine, as the kernel tells: is it the same one, who holds a lock, what is there to share out."""

from __future__ import annotations

import os
from pathlib import Path

_START_TICKS_FIELD = 19
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def start_ticks(pid: int) -> int | None:
    """When a process started, in ticks since boot; None when there is none, or only its remains."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[_START_TICKS_FIELD])


def holder_of_lock(path: Path) -> int | None:
    """The process that holds a flock on a file; None when nobody does, or it cannot be seen."""
    try:
        inode = path.stat().st_ino
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        words = line.split()
        if "->" not in words and words[1] == "FLOCK" and words[5].endswith(f":{inode}") and int(words[4]) > 0:
            return int(words[4])
    return None


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0))


def memory_bytes() -> int:
    """Main memory that this process may use."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _CGROUP_LIMITS:
        try:
            text = Path(path).read_text().strip()
        except OSError:
            continue
        total = min(total, int(text)) if text.isdigit() else total
    return total
