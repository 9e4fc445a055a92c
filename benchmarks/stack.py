"""A real Styx for the length of a block: `styx up` in a folder of its own, as a user starts it, and always stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import styx
from benchmarks.figures import Usage
from benchmarks.processes import together, usage_of, usage_of_stack
from styx_cli.local.folder import LocalFolder, tail

BIN = Path(sys.executable).parent
_POLL_SECONDS = 0.05
_START_SECONDS = 180.0
_STOP_SECONDS = 90.0


class Stack:
    """A data folder and the programs that run in it.

    Attributes:
        env: what a program needs to know to be a client of it.
    """

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        self.folder = LocalFolder(folder)
        self.env = bare_environment(folder.parent) | {"STYX_DATA_DIR": str(folder), **env}
        self._up: asyncio.subprocess.Process | None = None
        self._others: dict[int, str] = {os.getpid(): "client"}

    @property
    def data_dir(self) -> Path:
        """Where everything of it is."""
        return self.folder.root

    def client(self) -> styx.AsyncClient:
        """A client, as a program of a user makes one."""
        return styx.AsyncClient(data_dir=self.data_dir)

    def url(self) -> str:
        """Where agents and clients find it, over HTTP."""
        record = self.folder.read_record()
        assert record is not None
        return record.http

    def grpc_address(self) -> str:
        """Where its first server speaks gRPC, as `host:port`."""
        record = self.folder.read_record()
        assert record is not None
        return record.grpc

    def count_in(self, pid: int, role: str) -> None:
        """Another process that is part of the work, for example one full of agents."""
        self._others[pid] = role

    def usage(self) -> Usage:
        """What its processes have used so far, by role; this process is the client."""
        assert self._up is not None
        others = [usage_of(pid, role) for pid, role in self._others.items()]
        return together([usage_of_stack(self._up.pid), *others])

    async def start(self, *words: str) -> None:
        """Starts it; returns when it is ready.

        Raises:
            RuntimeError: it does not get ready; the message ends with its last words.
        """
        self.folder.prepare()
        with self.folder.log("up").open("ab") as log:
            self._up = await asyncio.create_subprocess_exec(
                str(BIN / "styx"),
                "up",
                *("--grpc-port", "0", "--http-port", "0"),
                *words,
                env=self.env,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_START_SECONDS):
                await self._until_ready(self._up)
                return
        raise RuntimeError("styx up did not get ready in time:\n" + self._last_words())

    async def stop(self) -> None:
        """Stops everything; kills what does not stop."""
        if self._up is None or self._up.returncode is not None:
            return
        self._up.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await self._up.wait()
        except TimeoutError:
            self._up.kill()
            await self._up.wait()

    async def _until_ready(self, up: asyncio.subprocess.Process) -> None:
        while up.returncode is None:
            record = self.folder.read_record()
            if record is not None and record.ready and record.pid == up.pid:
                return
            await asyncio.sleep(_POLL_SECONDS)
        raise RuntimeError("styx up ended:\n" + self._last_words())

    def _last_words(self) -> str:
        return "\n".join(tail(self.folder.log("up")))


@asynccontextmanager
async def running_stack(
    folder: Path, *, agents: int = 1, slots: int | None = None, replicas: int = 1, env: Mapping[str, str] | None = None
) -> AsyncIterator[Stack]:
    """A Styx.

    Args:
        folder: for its data; made here.
        agents: how many real agents.
        slots: cores that the one agent offers: as many tasks at once; None: those of this machine.
        replicas: how many servers.
        env: settings for its programs.
    """
    told = dict(env or {})
    if slots is not None:
        assert agents == 1, "several agents share out the machine"
        told["STYX_AGENT_CPUS"] = str(slots)
    stack = Stack(folder, told)
    try:
        await stack.start("--agents", str(agents), "--replicas", str(replicas))
        yield stack
    finally:
        await asyncio.shield(stack.stop())


def bare_environment(home: Path) -> dict[str, str]:
    """What a program is started with: nothing of the caller's settings reaches it."""
    return {"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(home), "LANG": "C.UTF-8"}
