"""A PostgreSQL that goes wrong on demand, behind a proxy that loses answers: what tests of a lost database stand on.

The server under test knows only the proxy's port; the tests themselves go past it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from styx_server.embedded import EmbeddedPostgres, PostgresAddress
from tests.support.postgres import connected
from tests.support.until import soon

NAME = "styx"
_SYNC = b"S\x00\x00\x00\x04"


class FaultyPostgres:
    """One cluster and the proxy in front of it."""

    def __init__(self, postgres: EmbeddedPostgres, folder: Path) -> None:
        self.folder = folder
        self.proxy = Proxy(f"{postgres.dsn.host}/.s.PGSQL.{postgres.dsn.port}")
        self._postgres = postgres
        self._address = postgres.dsn

    @property
    def address(self) -> PostgresAddress:
        """The way past the proxy."""
        return self._address.with_database(NAME)

    @property
    def url(self) -> str:
        """The way through the proxy."""
        return f"postgresql://styx:{self._address.password}@127.0.0.1:{self.proxy.port}/{NAME}?sslmode=disable"

    async def down(self) -> None:
        """An immediate shutdown: backends end in the middle of what they do, and recovery comes at the next start."""
        pid = self._postgres.pid
        if pid is not None:
            os.kill(pid, signal.SIGQUIT)
        await soon(lambda: not self.processes(), "PostgreSQL is down")

    async def up(self) -> None:
        """Starts it again, if it does not run; returns when it takes connections."""
        if self._postgres.pid is None:
            await self._postgres._launch()
        await self._answers()

    @asynccontextmanager
    async def frozen(self) -> AsyncIterator[None]:
        """Nothing is refused and nothing is answered, as if the machine had gone without a word."""
        pids = self.processes()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            # A stopped postmaster may have been about to make one more.
            for pid in {*pids, *self.processes()}:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    @asynccontextmanager
    async def used_up(self) -> AsyncIterator[int]:
        """Every connection is somebody else's; gives how many that are."""
        taken: list[asyncpg.Connection] = []
        try:
            async with connected(self._address) as own:
                limit = int(await own.fetchval("show max_connections"))
                while len(taken) < limit - 1:
                    await own.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = $1", NAME)
                    with contextlib.suppress(asyncpg.TooManyConnectionsError):
                        taken.append(await asyncpg.connect(**self._address.arguments()))
                yield len(taken)
        finally:
            for connection in taken:
                await connection.close()

    @asynccontextmanager
    async def locked(self, table: str) -> AsyncIterator[None]:
        """Somebody holds a lock that lets nobody read or write a table."""
        async with connected(self.address) as other, other.transaction():
            await other.execute(f"lock table {table} in access exclusive mode")
            yield

    def processes(self) -> list[int]:
        """Everything that works in the cluster's folder."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and (entry / "cwd").readlink().is_relative_to(self.folder):
                    found.append(int(entry.name))
        return found

    async def _answers(self) -> None:
        for _ in range(600):
            with contextlib.suppress(OSError, asyncpg.PostgresError, TimeoutError):
                async with connected(self._address):
                    return
            await asyncio.sleep(0.05)
        raise AssertionError("PostgreSQL does not come back")


class Proxy:
    """A port in front of a unix socket.

    Attributes:
        lost: how many answers to commits were lost.
    """

    def __init__(self, target: str) -> None:
        self.port = 0
        self.lost = 0
        self._target = target
        self._every = 0
        self._commits = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._links: set[_Link] = set()
        self._lossy = False

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Takes connections for the length of a block."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            for writer in list(self._writers):
                writer.transport.abort()
            await server.wait_closed()

    @contextlib.contextmanager
    def losing_answers(self, *, every: int) -> Iterator[None]:
        """Of each so many statements that commit, one is carried out, and its connection cut before the answer."""
        self._every = every
        try:
            yield
        finally:
            self._every = 0

    @contextlib.contextmanager
    def unreachable(self) -> Iterator[None]:
        """What is sent is lost, both ways and without a word; afterwards new connections work, and old ones never."""
        self._lossy = True
        for link in self._links:
            link.stuck = True
        try:
            yield
        finally:
            self._lossy = False

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            inner_reader, inner_writer = await asyncio.open_unix_connection(self._target)
        except OSError:
            writer.close()
            return
        link = _Link(reader, writer, inner_reader, inner_writer)
        link.stuck = self._lossy
        self._links.add(link)
        self._writers |= {writer, inner_writer}
        try:
            await asyncio.gather(self._forward(link), link.back())
        except OSError:
            pass
        finally:
            self._links.discard(link)
            for each in (writer, inner_writer):
                each.transport.abort()
                self._writers.discard(each)

    async def _forward(self, link: _Link) -> None:
        while data := await link.reader.read(1 << 16):
            if link.stuck:
                continue
            link.doomed = self._is_next(data)
            link.inner_writer.write(data)
            await link.inner_writer.drain()
        link.inner_writer.write_eof()

    def _is_next(self, data: bytes) -> bool:
        if not self._every or not (data.endswith(b"COMMIT;\x00") or (data[:1] == b"B" and data.endswith(_SYNC))):
            return False
        self._commits += 1
        if self._commits % self._every:
            return False
        self.lost += 1
        return True


class _Link:
    """One connection through the proxy; a doomed one is cut when the next answer comes."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        inner_reader: asyncio.StreamReader,
        inner_writer: asyncio.StreamWriter,
    ) -> None:
        self.reader = reader
        self.inner_writer = inner_writer
        self.doomed = False
        self.stuck = False
        self._writer = writer
        self._inner_reader = inner_reader

    async def back(self) -> None:
        while data := await self._inner_reader.read(1 << 16):
            if self.stuck:
                continue
            if self.doomed:
                raise ConnectionAbortedError
            self._writer.write(data)
            await self._writer.drain()
        # The database closed it: so does the proxy, both ways.
        raise ConnectionAbortedError


@asynccontextmanager
async def faulty_postgres(folder: Path, **settings: str) -> AsyncIterator[FaultyPostgres]:
    """A cluster of one's own, with an empty database in it."""
    postgres = EmbeddedPostgres(folder, fsync=False, extra_settings=settings)
    await postgres.start()
    try:
        faulty = FaultyPostgres(postgres, folder)
        async with connected(postgres.dsn) as connection:
            await connection.execute(f"create database {NAME}")
        async with faulty.proxy.listening():
            yield faulty
    finally:
        await postgres.stop()
