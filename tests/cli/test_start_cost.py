"""What a command loads before it works: the price of every keystroke after `styx`."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

HEAVY = ("grpc", "google.protobuf", "rich", "asyncio", "structlog", "yaml", "http.client", "urllib.request")


async def _loaded_by(*words: str, data_dir: Path) -> set[str]:
    """The heavy modules that are there when the command has ended."""
    text = (
        "import sys, styx_cli.__main__ as program\n"
        "try:\n    program.main(sys.argv[1:])\n"
        f"except SystemExit:\n    print(*[name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", text, *words),
        env={"PATH": os.environ["PATH"], "STYX_DATA_DIR": str(data_dir)},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await process.communicate()
    return set(err.decode().splitlines()[-1].split())


async def test_version_loads_nothing_heavy(tmp_path: Path, here: Path) -> None:
    assert await _loaded_by("version", data_dir=tmp_path) == set()
    assert await _loaded_by("version", data_dir=here) == set()


async def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    assert await _loaded_by("--help", data_dir=tmp_path) == set()
    assert await _loaded_by("run", "--help", data_dir=tmp_path) == set()


async def test_status_loads_what_it_needs_and_no_more(here: Path) -> None:
    assert await _loaded_by("status", data_dir=here) == {"grpc", "google.protobuf", "asyncio"}
