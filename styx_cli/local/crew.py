"""The agents of a local stack as the server sees them: which are ready, which are in trouble."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, suppress

from styx.client import AsyncClient
from styx.errors import Retryable
from styx.locate import LocalEndpoint
from styx.models import Agent, AgentState
from styx_cli import clock
from styx_cli.local.folder import LocalFolder
from styx_cli.phrases import number, size
from styx_cli.sanitize import plain

_POLL_SECONDS = 0.1
_WATCH_SECONDS = 3.0


class Crew:
    """Our agents; those of other machines are not our business."""

    def __init__(self, folder: LocalFolder, count: int, client: AsyncClient) -> None:
        self._folder = folder
        self._count = count
        self._client = client
        self._states: dict[str, AgentState] = {}

    async def seen(self) -> list[Agent]:
        """Those that have joined, as they are now."""
        ids = {self._folder.agent_id(each) for each in range(1, self._count + 1)} - {None}
        if not ids:
            return []
        async with aclosing(self._client.agents()) as agents:
            return [agent async for agent in agents if agent.id in ids]

    async def until_ready(self, seconds: float) -> list[Agent]:
        """Waits until all are ready; returns those that are, after `seconds` at the latest."""
        ready: list[Agent] = []
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while len(ready) < self._count:
                    await clock.sleep(_POLL_SECONDS)
                    ready = [agent for agent in await self.seen() if agent.state is AgentState.READY]
        return ready

    async def watch(self, say: Callable[[str], None]) -> None:
        """Says so whenever one is seen in another state; never ends."""
        while True:
            try:
                for line in self._changes(await self.seen()):
                    say(line)
            except Retryable as error:
                say(f"the server does not answer: {plain(error.message)}")
            await clock.sleep(_WATCH_SECONDS)

    def _changes(self, agents: Sequence[Agent]) -> Iterator[str]:
        for agent in agents:
            if self._states.get(agent.id, agent.state) is not agent.state:
                yield f"{agent.id} is {agent.state.value.lower()}"
            self._states[agent.id] = agent.state


def greeting(
    folder: LocalFolder, endpoints: Sequence[LocalEndpoint], ready: Sequence[Agent], *, wanted: int
) -> Iterator[str]:
    """What a person wants to know once everything is up."""
    yield f"Styx {endpoints[0].version} is up"
    for endpoint in endpoints:
        yield f"  server  {endpoint.http}  (gRPC {endpoint.grpc})"
    yield f"  data    {folder.root}"
    for agent in ready:
        yield f"  agent   {agent.id} is ready: {capacity_words(agent)}"
    if len(ready) < wanted:
        yield f"  agents  {wanted - len(ready)} not ready yet; see {folder.logs}"


def capacity_words(agent: Agent) -> str:
    """What an agent offers, in a few words."""
    if agent.capacity is None:
        return "nothing"
    parts = [f"{number(agent.capacity.cpus)} cpus", size(agent.capacity.memory_bytes)]
    parts += [f"{len(agent.capacity.gpus)} gpus"] if agent.capacity.gpus else []
    return ", ".join(parts)
