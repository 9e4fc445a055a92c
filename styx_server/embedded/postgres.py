"""The whole life of an embedded PostgreSQL: own the folder, make the cluster, start, keep running, stop.

May not speak SQL: whether the server is ready is read from its pid file. What it stands on: `folder.py` (files),
`binaries.py` (programs), `identity.py` (who runs them), `launch.py` (starting), `postmaster.py` (what runs already).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

import structlog

from styx_server import clock
from styx_server.embedded import launch, postmaster
from styx_server.embedded.address import PostgresAddress
from styx_server.embedded.binaries import Binaries, find_binaries
from styx_server.embedded.errors import StartFailed
from styx_server.embedded.folder import Folder
from styx_server.embedded.identity import choose_identity
from styx_server.embedded.launch import Identity
from styx_server.embedded.settings import as_flags, initdb_flags, settings

_log = structlog.stdlib.get_logger(__name__)

# Recovery after a crash replays at most max_wal_size; this is many times what that takes.
READY_SECONDS = 300.0
# Two segments of its journal: with less, PostgreSQL cannot be sure to start.
_LEAST_FREE_BYTES = 32 << 20
_STOP_STEPS = ((signal.SIGINT, 30.0), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 10.0))


class EmbeddedPostgres:
    """One postmaster as a child of this process, with its files in `data_dir/postgres`.

    It dies with its owner: an orderly stop, a crash and `kill -9` all take it down.

    Args:
        data_dir: the server's data folder.
        fsync: False for data that nobody will miss; much faster.
        extra_settings: PostgreSQL settings that win over ours.
        binaries: folder with the programs, instead of looking for them.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        fsync: bool = True,
        extra_settings: Mapping[str, str] | None = None,
        binaries: Path | None = None,
    ) -> None:
        self._folder = Folder(data_dir.resolve() / "postgres")
        self._fsync = fsync
        self._extra = dict(extra_settings or {})
        self._told = binaries
        self._command: list[str] = []
        self._identity = Identity(words="this user", owner=(os.geteuid(), os.getegid()))
        self._process: subprocess.Popen[bytes] | None = None
        self._address: PostgresAddress | None = None

    @property
    def dsn(self) -> PostgresAddress:
        """Where the server is; known once it has started."""
        if self._address is None:
            raise RuntimeError("start the embedded PostgreSQL before asking where it is")
        return self._address

    @property
    def pid(self) -> int | None:
        """The postmaster, while it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    async def start(self) -> None:
        """Makes the cluster if there is none, starts it, and returns when it takes connections.

        Must be called from the main thread.

        Raises:
            EmbeddedPostgresError: it cannot run; nothing of it is left running.
        """
        self._folder.make()
        self._folder.take()
        try:
            await self._prepare()
            await self._launch()
        except BaseException:
            await self.stop()
            raise

    async def keep_running(self) -> None:
        """Starts the server again whenever it ends by itself, and bounds its log. Runs until it is cancelled."""
        pause = 1.0
        while True:
            await clock.sleep(pause)
            pause = 1.0 if await self._revive() else min(pause * 2, 30.0)
            self._folder.trim_log()

    async def stop(self) -> None:
        """Ends the server in order, and gives up the folder. May be called at any time, and twice."""
        process, self._process, self._address = self._process, None, None
        if not self._folder.taken:
            return
        try:
            if process is not None:
                await _end(process)
        finally:
            self._folder.remove_socket_folder()
            self._folder.release()

    async def _prepare(self) -> None:
        """Everything up to the start of the server, which is then only a command."""
        binaries = find_binaries(self._told, made_by=self._folder.made_by())
        identity = await choose_identity(self._folder.root, binaries)
        self._identity = identity
        if self._folder.made_by() is None:
            await self._make_cluster(binaries)
        run = self._folder.make_socket_folder(identity.owner)
        chosen = settings(major=binaries.major, fsync=self._fsync, extra=self._extra)
        flags = ["-D", str(self._folder.data), "-k", str(run), *as_flags(chosen)]
        self._command = [binaries.postgres, *flags]
        self._address = PostgresAddress(
            host=str(run), user="styx", password=self._folder.password(), database="postgres"
        )

    async def _make_cluster(self, binaries: Binaries) -> None:
        folder = self._folder
        folder.begin_cluster(self._identity.owner)
        flags = initdb_flags(major=binaries.major, fsync=self._fsync)
        files = ["-D", str(folder.unfinished), f"--pwfile={folder.password_file}"]
        code, output = await launch.run([binaries.initdb, *flags, *files], self._identity)
        if code != 0:
            raise StartFailed(f"PostgreSQL could not make a cluster in {folder.root}: {output.strip()}")
        folder.finish_cluster()

    async def _revive(self) -> bool:
        """Whether the server runs, if need be after a new start."""
        if self.pid is not None:
            return True
        _log.warning("embedded_postgres_ended", log_file=str(self._folder.log_file))
        try:
            await self._launch()
        except StartFailed as error:
            _log.error("embedded_postgres_not_restarted", error=str(error))
            return False
        _log.info("embedded_postgres_restarted", pid=self.pid)
        return True

    async def _launch(self) -> None:
        await postmaster.end_leftovers(self._folder.data)
        with self._folder.open_log(self._identity.owner) as log:
            self._process = launch.start(self._command, self._identity, log)
        deadline = clock.monotonic() + READY_SECONDS
        while not postmaster.is_ready(self._folder.data, self._process.pid):
            if self._process.poll() is not None:
                raise StartFailed(
                    f"{self._if_full()}PostgreSQL ended with exit code {self._process.returncode} instead of starting. "
                    f"The end of {self._folder.log_file}:\n{self._folder.log_tail()}"
                )
            if clock.monotonic() > deadline:
                raise StartFailed(f"PostgreSQL was not ready after {READY_SECONDS:.0f} s; see {self._folder.log_file}.")
            await clock.sleep(0.01)

    def _if_full(self) -> str:
        """What to say first when the disk may be what is wrong."""
        free = shutil.disk_usage(self._folder.root).free
        if free >= _LEAST_FREE_BYTES:
            return ""
        return f"The disk that holds {self._folder.root} has {free >> 20} MiB left: make room on it. "


async def _end(process: subprocess.Popen[bytes]) -> None:
    for number, seconds in _STOP_STEPS:
        if process.poll() is None:
            process.send_signal(number)
        deadline = clock.monotonic() + seconds
        while process.poll() is None and clock.monotonic() < deadline:
            await clock.sleep(0.005)
        if process.returncode is not None:
            return
