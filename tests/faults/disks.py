"""Small disks of their own that can be filled at once: file systems in memory, whose size can be changed under way.

Only root may make them.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_STEP_BYTES = 64 << 10


@contextmanager
def mounted(folder: Path, size_bytes: int, mode: str = "700") -> Iterator[None]:
    """A disk at this place for the length of a block."""
    folder.mkdir(mode=0o700)
    _run("mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode={mode}", "styx", str(folder))
    try:
        yield
    finally:
        _run("umount", "--lazy", str(folder))


@contextmanager
def filled(folder: Path) -> Iterator[None]:
    """No byte more fits on a disk: it becomes as small as what is on it, and then as large as it was."""
    whole = os.statvfs(folder)
    size = (whole.f_blocks - whole.f_bfree) * whole.f_frsize
    try:
        # Whoever writes meanwhile makes it larger.
        while not _resize(folder, size):
            size += _STEP_BYTES
        yield
    finally:
        assert _resize(folder, whole.f_blocks * whole.f_frsize)


def _resize(folder: Path, size_bytes: int) -> bool:
    words = ["mount", "-o", f"remount,size={size_bytes}", str(folder)]
    return subprocess.run(words, check=False, capture_output=True).returncode == 0


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)
