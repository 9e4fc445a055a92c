"""A server that has the agent on its shelf, as machines out there find it."""

from __future__ import annotations

import asyncio
import platform
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import styx
from styx.models import Agent, AgentState
from styx_server.bundle import BundleError, Shelf, wheels
from styx_server.core.machines.instance import Boot
from styx_server.embedded import PostgresAddress
from tests.support.cloud_machine import python_of_rootfs, why_not
from tests.support.server_process import TOKEN, ServerProcess
from tests.support.until import soon_true


class Home:
    """A server that has the agent on its shelf, and a client of it."""

    def __init__(self, server: ServerProcess, http: str, digest: str, client: styx.AsyncClient) -> None:
        self.server = server
        self.http = http
        self.digest = digest
        self.client = client

    async def boot(self, **more: object) -> Boot:
        """What one new machine is told."""
        token = (await self.client.create_join_token()).token
        told = {"server_urls": ("http://127.0.0.1:1", self.http), "bundle_sha256": self.digest} | more
        return Boot(join_token=token, agent_name="i9", **told)  # type: ignore[arg-type]

    async def joined(self) -> Agent:
        """The machine's agent, once it is connected."""

        async def there() -> bool:
            return any(agent.state == AgentState.READY for agent in await self.agents())

        await soon_true(there, "the agent has joined", seconds=90)
        (agent,) = await self.agents()
        return agent

    async def agents(self) -> list[Agent]:
        return [agent async for agent in self.client.agents()]

    async def output(self, command: str) -> bytes:
        """What a command writes there."""
        task_id = await self.client.submit_task(command)
        chunks = [chunk.data async for chunk in self.client.logs(task_id, follow=True)]
        return b"".join(chunks)


@pytest.fixture(scope="session")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundles of what is installed here, packed once."""
    folder = tmp_path_factory.mktemp("packed")
    Shelf(folder).digest()
    return folder / "bundles"


@pytest.fixture
def fitting(packed: Path) -> Path:
    """Bundles, also for the Python of the machine."""
    if why_not():
        pytest.skip(why_not())
    if python_of_rootfs() != "{}.{}".format(*sys.version_info[:2]):
        try:
            wheels.fetch(packed / "wheels", python_of_rootfs(), {"aarch64": "arm64"}.get(platform.machine(), "x86_64"))
        except BundleError as error:
            pytest.skip(f"the machine has Python {python_of_rootfs()}: {error}")
        Shelf(packed.parent).digest()
    return packed


@asynccontextmanager
async def home_at(folder: Path, packed: Path, database: PostgresAddress, *flags: str) -> AsyncIterator[Home]:
    """One, for the length of a block."""
    server = ServerProcess(folder / "server", database.url, *flags)
    shutil.copytree(packed, server.folder / "bundles")
    server.start()
    try:
        endpoint = await server.ready()
        digest = await asyncio.to_thread(Shelf(server.folder).digest)
        async with styx.AsyncClient(endpoint["http"], TOKEN) as client:
            yield Home(server, endpoint["http"], digest, client)
    finally:
        await server.stop()


@pytest.fixture
async def home(tmp_path: Path, packed: Path, database: PostgresAddress) -> AsyncIterator[Home]:
    """One on this computer alone."""
    async with home_at(tmp_path, packed, database) as found:
        yield found
