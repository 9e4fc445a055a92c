"""Fetches libraries for machines with another Python or processor than this server's. Pip does it, as a process.

Only `styx-server bundle` calls this: nothing is fetched behind an operator's back. Next: `shelf.py`, which packs them.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from styx_server.bundle.pack import BundleError, requirements

PROCESSORS: Final = {"x86_64": "x86_64", "arm64": "aarch64"}
"""As offers call them, and as the kernel does."""

_GLIBC: Final = (17, 24, 26, 27, 28, 31, 34, 35)
"""Wheels for these versions of the C library run wherever Styx runs: Debian 12 has 2.36."""


def fetch(wheels: Path, python: str, processor: str) -> Path:
    """Fetches the libraries of an agent; returns their folder, in which is then nothing else.

    Args:
        wheels: the shelf's folder for them.
        python: such as `3.12`.
        processor: `x86_64` or `arm64`.

    Raises:
        BundleError: pip is missing or cannot get them; the message holds what it says.
    """
    if not re.fullmatch(r"3\.\d+", python) or int(python.partition(".")[2]) < 11:
        raise BundleError(f"Python is a version such as 3.12, and 3.11 or newer, not {python!r}")
    if processor not in PROCESSORS:
        raise BundleError(f"the processor is one of {', '.join(PROCESSORS)}, not {processor!r}")
    machine = PROCESSORS[processor]
    wheels.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=wheels.parent, prefix="new-") as fresh:
        _pip(python, machine, fresh)
        place = wheels / f"{python}-{machine}"
        shutil.rmtree(place, ignore_errors=True)
        shutil.move(fresh, place)
        Path(fresh).mkdir()  # for its owner to remove
    return place


def _pip(python: str, machine: str, folder: str) -> None:
    words = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"]
    words += ["--dest", folder, "--implementation", "cp", "--python-version", python]
    for version in _GLIBC:
        words += ["--platform", f"manylinux_2_{version}_{machine}"]
    words += ["--platform", f"manylinux2014_{machine}", *requirements()]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BundleError(
            f"the libraries for Python {python} on {machine} cannot be fetched; pip says: {done.stderr.strip()}"
        )
