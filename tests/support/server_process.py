"""`styx-server` as a process on a database of the test's own, with agents and a client: a Styx of single parts."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import styx
from styx.retry import RetrySettings
from tests.support.agent_process import AgentProcess
from tests.support.until import soon, soon_true

ROOT = str(Path(__file__).resolve().parents[2])
TOKEN = "styx_admin_of_a_test"


class ServerProcess:
    """One data folder and the server in it.

    Attributes:
        environment: variables of the next start, beside what every program needs.
    """

    def __init__(self, folder: Path, database_url: str, *flags: str) -> None:
        self.folder = folder
        self.environment: Mapping[str, str] = {}
        self.log = folder / "server.log"
        self._flags = ["--database-url", database_url, "--data-dir", str(folder), "--admin-token", TOKEN, *flags]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        words = ["--grpc-port", "0", "--http-port", "0", "--unsafe-database", "--log-format", "json"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "styx_server", *words, *self._flags],
                cwd=ROOT,
                env={"PATH": os.environ["PATH"], "HOME": str(self.folder), **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    async def ready(self) -> dict[str, Any]:
        """What it says of itself, once it serves."""
        path = self.folder / "endpoint.json"
        await soon(lambda: path.exists() or self.ended, f"the server serves: {self.tail()}", seconds=90)
        assert not self.ended, self.tail()
        found: dict[str, Any] = json.loads(path.read_text())
        await soon_true(lambda: _listens(found["http"]), "its HTTP port is open")
        return found

    @property
    def ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def events(self, name: str) -> Iterator[dict[str, Any]]:
        """Lines of its log with this event."""
        for line in self.log.read_text().splitlines():
            if f'"{name}"' in line and line.startswith("{"):
                found = json.loads(line)
                if found["event"] == name:
                    yield found

    def tail(self) -> str:
        return self.log.read_text()[-2000:] if self.log.exists() else ""

    async def stop(self) -> None:
        if self.process is None or self.ended:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(self.process.wait, 30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


async def _listens(url: str) -> bool:
    host, port = url.removeprefix("http://").rsplit(":", 1)
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return False
    writer.close()
    return True


class SmallStyx:
    """One server, one agent, one client that does not try again by itself, and one that does."""

    def __init__(self, server: ServerProcess, agent: AgentProcess, endpoint: dict[str, Any]) -> None:
        self.server = server
        self.agent = agent
        self.http = endpoint["http"]
        self.grpc = endpoint["grpc"]
        self.hasty = styx.AsyncClient(self.http, TOKEN, retry=RetrySettings(budget_seconds=0))
        self.patient = styx.AsyncClient(
            self.http, TOKEN, retry=RetrySettings(budget_seconds=600, longest_wait_seconds=0.5)
        )

    @property
    def pid(self) -> int:
        assert self.server.process is not None
        return self.server.process.pid

    async def log_of(self, task_id: str) -> bytes:
        """All output of a task, in order."""
        return b"".join([chunk.data async for chunk in self.patient.logs(task_id, follow=True)])

    async def ended(self, task_id: str) -> styx.Task:
        """The task, once it is over."""
        await self.patient.wait(task_id)
        return await self.patient.get_task(task_id)


@asynccontextmanager
async def small_styx(folder: Path, database_url: str) -> AsyncIterator[SmallStyx]:
    """A server and an agent as processes; afterwards nothing of them is left."""
    async with AsyncExitStack() as stack:
        server = ServerProcess(folder / "server", database_url)
        server.start()
        stack.push_async_callback(server.stop)
        endpoint = await server.ready()
        async with styx.AsyncClient(endpoint["http"], TOKEN) as client:
            token = await client.create_join_token()
        port = int(endpoint["grpc"].rsplit(":", 1)[1])
        agent = AgentProcess(folder / "agent", port, flags=["--cpus", "64", "--log-format", "json"], token=token.token)
        agent.start()
        stack.push_async_callback(agent.close)
        small = SmallStyx(server, agent, endpoint)
        stack.push_async_callback(small.hasty.close)
        stack.push_async_callback(small.patient.close)
        yield small
