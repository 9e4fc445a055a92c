"""The database of the floors: the same PostgreSQL with the same settings as a server's own, in a cluster for itself."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import Usage
from benchmarks.processes import usage_below
from benchmarks.stack import bare_environment

_FILE = "database.json"
_START_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Database:
    """A cluster that runs, and a database in it."""

    url: str
    pid: int

    def usage(self) -> Usage:
        """What the cluster has used so far."""
        return usage_below(self.pid, "postgres")


@asynccontextmanager
async def running_database(folder: Path) -> AsyncIterator[Database]:
    """`styx-server database` for the length of a block."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "styx_server", "database", "--data-dir", str(folder)),
        env=bare_environment(folder.parent),
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(_START_SECONDS):
            while not (url := _url(folder)):
                if process.returncode is not None:
                    raise RuntimeError(f"the floor's database ended with code {process.returncode}")
                await asyncio.sleep(0.05)
        yield Database(url, process.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        await asyncio.shield(process.wait())


def _url(folder: Path) -> str:
    try:
        return str(json.loads((folder / _FILE).read_text())["url"])
    except (OSError, ValueError):
        return ""
