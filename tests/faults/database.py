"""The PostgreSQL of a cluster, apart from the servers: it can be stopped, killed and started again at one address."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import asyncpg

from styx_server.embedded import EmbeddedPostgres
from tests.support.faulty_postgres import Proxy
from tests.support.until import soon, soon_true

MAX_CONNECTIONS = 100
ANSWER_SECONDS = 60.0


class Postgres:
    """One PostgreSQL that listens on a fixed port of this machine. It dies with the process that made it.

    Its files are not forced to disk, because only processes die here, not the machine.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self._port = port
        self._server: EmbeddedPostgres | None = None
        self.url = ""
        """Where it is, whether it runs or not; known once it has run."""

    @property
    def runs(self) -> bool:
        """Whether the postmaster is there."""
        return self._server is not None and self._server.pid is not None

    async def start(self) -> None:
        """Starts it; after a kill it recovers first."""
        if self._server is not None:
            await self._server.stop()
        self._server = EmbeddedPostgres(
            self.folder,
            fsync=False,
            extra_settings={
                "listen_addresses": "127.0.0.1",
                "port": str(self._port),
                "max_connections": str(MAX_CONNECTIONS),
            },
        )
        await self._server.start()
        self.url = self._url_at(self._port)

    def road(self) -> Proxy:
        """A way to it on which things may go wrong: one for each server."""
        assert self._server is not None
        return Proxy(f"{self._server.dsn.host}/.s.PGSQL.{self._port}")

    def url_by(self, road: Proxy) -> str:
        """Where it is for who takes that road."""
        return self._url_at(road.port)

    def _url_at(self, port: int) -> str:
        assert self._server is not None
        address = self._server.dsn
        who = f"{address.user}:{quote(address.password, safe='')}"
        return f"postgresql://{who}@127.0.0.1:{port}/postgres?sslmode=disable"

    async def answers(self) -> None:
        """Waits until it takes connections; if it has ended, it is started."""

        async def up() -> bool:
            if not self.runs:
                await self.start()
            with suppress(OSError, TimeoutError, asyncpg.PostgresError):
                async with self.connected(timeout=2):
                    return True
            return False

        await soon_true(up, "PostgreSQL answers", seconds=ANSWER_SECONDS)

    async def stop(self) -> None:
        """Ends it in order."""
        if self._server is not None:
            self.signal(signal.SIGCONT)
            await self._server.stop()

    async def end_at_once(self) -> None:
        """As `pg_ctl stop -m immediate`: no checkpoint, connections are cut, recovery at the next start."""
        self.signal(signal.SIGQUIT)
        await soon(lambda: not self.runs, "PostgreSQL is gone")

    def signal(self, number: int) -> None:
        """Sends a signal to the postmaster."""
        if self._server is not None and self._server.pid is not None:
            os.kill(self._server.pid, number)

    @asynccontextmanager
    async def connected(self, **more: float) -> AsyncIterator[asyncpg.Connection]:
        """A connection for the length of a block."""
        connection = await asyncpg.connect(self.url, **more)
        try:
            yield connection
        finally:
            connection.terminate()

    async def backends(self) -> list[int]:
        """Process numbers of the connections of servers."""
        async with self.connected(timeout=10) as connection:
            rows = await connection.fetch("""
                select pid from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()
            """)
        return [int(row["pid"]) for row in rows]
