"""`styx up`: the server first, then the agents; watched while they run; agents stopped first, then the server.

Everything happens in one event loop and one TaskGroup. What is started is decided in `plan.py`, how one child is kept
in `children.py`, how all are stopped in `stopping.py`, what the server thinks of our agents in `crew.py`.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from styx.client import AsyncClient
from styx.errors import StyxError
from styx.locate import LocalEndpoint, read_endpoint
from styx_cli import clock
from styx_cli.failures import first_of
from styx_cli.local.children import Child, how_it_ended
from styx_cli.local.crew import Crew, greeting
from styx_cli.local.folder import LocalFolder, UpRecord, tail
from styx_cli.local.plan import UpOptions, agent_argv, busy_port, child_env, server_argv
from styx_cli.local.processes import start_ticks
from styx_cli.local.stopping import stop_all
from styx_cli.sanitize import plain

_SERVER_START_SECONDS = 180.0
_AGENT_START_SECONDS = 60.0
_POLL_SECONDS = 0.05

Say = Callable[[str], None]


class StartFailed(StyxError):
    """The stack could not be started."""

    reason = "START_FAILED"


class Stack:
    """The server, its agents, and the words about them."""

    def __init__(self, folder: LocalFolder, options: UpOptions, say: Say) -> None:
        self._folder = folder
        self._options = options
        self._say = say
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._ready = False
        self._record = UpRecord(pid=os.getpid(), start_ticks=start_ticks(os.getpid()) or 0, agents=options.agents)
        self._env = child_env(os.environ)
        self._server = Child("server", server_argv(folder, options), log=folder.log("server"), env=self._env)
        self._agents: list[Child] = []

    async def run(self) -> None:
        """Starts everything, keeps it running until somebody says stop, stops everything.

        Raises:
            StartFailed: something did not come up; what had been started is stopped again.
        """
        loop = asyncio.get_running_loop()
        for signal_number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            # nohup asks not to be bothered when the terminal goes away.
            if signal.getsignal(signal_number) is not signal.SIG_IGN:
                loop.add_signal_handler(signal_number, self._on_signal)
        self._folder.write_record(self._record)
        try:
            await self._until_stopped(self._start_and_keep())
        finally:
            await stop_all(self._folder, self._agents, self._server, hurry=self._hurry, say=self._say_unless_early)
            self._folder.record.unlink(missing_ok=True)

    async def _until_stopped(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs `work` until it fails or somebody says stop."""
        try:
            async with asyncio.TaskGroup() as group:
                running = group.create_task(work)
                await self._stop.wait()
                running.cancel()
        except BaseExceptionGroup as failures:
            raise first_of(failures) from None

    async def _start_and_keep(self) -> None:
        endpoint = await self._start_server()
        # A server that falls comes back where its agents and clients know it.
        ports = (endpoint.grpc.rpartition(":")[2], endpoint.http.rpartition(":")[2].strip("/"))
        fixed = replace(self._options, grpc_port=int(ports[0]), http_port=int(ports[1]))
        self._server.argv = server_argv(self._folder, fixed)
        async with AsyncClient(data_dir=self._folder.root) as client:
            await self._start_agents(client, endpoint)
            async with asyncio.TaskGroup() as group:
                for child in (self._server, *self._agents):
                    group.create_task(child.keep_alive(self._on_fall))
                await self._until_agents_ready(client, endpoint)
                await self._crew(client).watch(self._say)

    async def _start_server(self) -> LocalEndpoint:
        busy = busy_port(self._options)
        if busy:
            port, flag = busy
            remedy = f"stop who uses it, or choose another with {flag} (0: any free one)"
            raise StartFailed(f"port {port} is in use", remedy=remedy)
        await self._server.start()
        try:
            async with asyncio.timeout(_SERVER_START_SECONDS):
                return await self._server_endpoint()
        except TimeoutError:
            raise self._start_failed(self._server, f"was not ready within {_SERVER_START_SECONDS:.0f} s") from None

    async def _server_endpoint(self) -> LocalEndpoint:
        while self._server.pid is not None:
            endpoint = read_endpoint(self._folder.root)
            if endpoint is not None and endpoint.pid == self._server.pid:
                return endpoint
            await clock.sleep(_POLL_SECONDS)
        raise self._start_failed(self._server, how_it_ended(await self._server.ended()))

    async def _start_agents(self, client: AsyncClient, endpoint: LocalEndpoint) -> None:
        numbers = range(1, self._options.agents + 1)
        strangers = [each for each in numbers if self._folder.agent_id(each) is None]
        token = (await client.create_join_token(max_uses=len(strangers))).token if strangers else ""
        for each in numbers:
            self._folder.agent(each).mkdir(parents=True, exist_ok=True, mode=0o700)
            env = child_env(self._env, **({"STYX_JOIN_TOKEN": token} if each in strangers else {}))
            argv = agent_argv(self._folder, each, self._options, url=endpoint.http)
            child = Child(f"agent {each}", argv, log=self._folder.log(f"agent-{each}"), env=env)
            self._agents.append(child)
            await child.start()

    async def _until_agents_ready(self, client: AsyncClient, endpoint: LocalEndpoint) -> None:
        ready = await self._crew(client).until_ready(_AGENT_START_SECONDS)
        self._ready = True
        self._record = replace(self._record, ready=True, http=endpoint.http, grpc=endpoint.grpc)
        self._folder.write_record(self._record)
        for line in greeting(self._folder, endpoint, ready, wanted=self._options.agents):
            self._say(line)

    def _crew(self, client: AsyncClient) -> Crew:
        return Crew(self._folder, self._options.agents, client)

    def _on_fall(self, child: Child, code: int, wait: float) -> None:
        self._say(f"{child.name} {how_it_ended(code)}; starting it again in {wait:g} s (log: {child.log})")

    def _say_unless_early(self, text: str) -> None:
        """Words about stopping, for who has seen it up."""
        if self._ready:
            self._say(text)

    def _on_signal(self) -> None:
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    def _start_failed(self, child: Child, why: str) -> StartFailed:
        lines = [f"the {child.name} {why}; the end of {child.log}:", *(f"  {plain(line)}" for line in tail(child.log))]
        return StartFailed("\n".join(lines), remedy="the log has the rest")
