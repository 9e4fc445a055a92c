"""`styx up`: the servers first, then the agents; watched while they run; agents stopped first, then the servers.

Everything happens in one event loop and one TaskGroup. What is started is decided in `plan.py`, how servers come up in
`servers.py`, how one child is kept in `children.py`, how all are stopped in `stopping.py`, what the server thinks of
our agents in `crew.py`.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from styx.client import AsyncClient
from styx.locate import LocalEndpoint
from styx_cli.failures import first_of
from styx_cli.local.children import Child, how_it_ended
from styx_cli.local.crew import Crew, greeting
from styx_cli.local.folder import LocalFolder, UpRecord
from styx_cli.local.plan import UpOptions, agent_argv, child_env, end_machines_argv
from styx_cli.local.processes import start_ticks
from styx_cli.local.servers import servers_for
from styx_cli.local.stopping import stop_all

_AGENT_START_SECONDS = 60.0

Say = Callable[[str], None]


class Stack:
    """The servers, the agents, and the words about them."""

    def __init__(self, folder: LocalFolder, options: UpOptions, say: Say) -> None:
        self._folder = folder
        self._options = options
        self._say = say
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._ready = False
        self._record = UpRecord(pid=os.getpid(), start_ticks=start_ticks(os.getpid()) or 0, agents=options.agents)
        self._env = child_env(os.environ)
        self._servers = servers_for(folder, options, self._env)
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
            stages = self._servers.stages
            await stop_all(self._folder, self._agents, stages, hurry=self._hurry, say=self._say_unless_early)
            if self._options.providers:
                await self._end_machines()
            self._servers.forget()
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
        endpoints = await self._servers.start()
        async with AsyncClient(data_dir=self._folder.root) as client:
            await self._start_agents(client, ",".join(endpoint.http for endpoint in endpoints))
            async with asyncio.TaskGroup() as group:
                for child in (*chain.from_iterable(self._servers.stages), *self._agents):
                    group.create_task(child.keep_alive(self._on_fall))
                await self._until_agents_ready(client, endpoints)
                await self._crew(client).watch(self._say)

    async def _start_agents(self, client: AsyncClient, url: str) -> None:
        numbers = range(1, self._options.agents + 1)
        strangers = [each for each in numbers if self._folder.agent_id(each) is None]
        token = (await client.create_join_token(max_uses=len(strangers))).token if strangers else ""
        for each in numbers:
            self._folder.agent(each).mkdir(parents=True, exist_ok=True, mode=0o700)
            env = child_env(self._env, **({"STYX_JOIN_TOKEN": token} if each in strangers else {}))
            argv = agent_argv(self._folder, each, self._options, url=url)
            child = Child(f"agent {each}", argv, log=self._folder.log(f"agent-{each}"), env=env)
            self._agents.append(child)
            await child.start()

    async def _until_agents_ready(self, client: AsyncClient, endpoints: Sequence[LocalEndpoint]) -> None:
        ready = await self._crew(client).until_ready(_AGENT_START_SECONDS)
        self._ready = True
        self._record = replace(self._record, ready=True, http=endpoints[0].http, grpc=endpoints[0].grpc)
        self._folder.write_record(self._record)
        for line in greeting(self._folder, endpoints, ready, wanted=self._options.agents):
            self._say(line)

    async def _end_machines(self) -> None:
        """Machines outlive servers, so that a restart does not touch them; this is no restart."""
        child = Child(
            "end of machines", end_machines_argv(self._folder.root), log=self._folder.log("machines"), env=self._env
        )
        await child.start()
        if code := await child.ended():
            self._say(f"rented machines are left ({how_it_ended(code)}; log: {child.log})")

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
