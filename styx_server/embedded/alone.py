"""The embedded PostgreSQL as a program of its own, so that several servers share it and none takes it along.

DIR/database.json says where it is while it runs. Next: `postgres.py` is what it keeps alive.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Final

import structlog

from styx_server.embedded.postgres import EmbeddedPostgres

_log = structlog.get_logger()

DATABASE_FILE: Final = "database.json"
_MAX_CONNECTIONS: Final = 250
"""Room for ten servers: each opens 21 at most."""


async def host(data_dir: Path) -> None:
    """Runs the database of a data folder until SIGTERM or SIGINT.

    Raises:
        EmbeddedPostgresError: it cannot run.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    _make(data_dir)
    postgres = EmbeddedPostgres(data_dir, extra_settings={"max_connections": str(_MAX_CONNECTIONS)})
    await postgres.start()
    place = data_dir / DATABASE_FILE
    try:
        _write(place, {"url": postgres.dsn.url, "pid": os.getpid()})
        _log.info("database_ready", file=str(place))
        async with asyncio.TaskGroup() as group:
            keeping = group.create_task(postgres.keep_running())
            await stop.wait()
            keeping.cancel()
    finally:
        place.unlink(missing_ok=True)
        await postgres.stop()
    _log.info("database_stopped")


def _make(data_dir: Path) -> None:
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)


def _write(place: Path, document: dict[str, object]) -> None:
    """Writes what its owner alone may read, for it holds the password."""
    fresh = place.with_suffix(".new")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(json.dumps(document) + "\n")
    fresh.rename(place)
