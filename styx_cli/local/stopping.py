"""Stops a whole stack: agents first, so that their last words find a server, then servers, then what they stand on."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import chain

from styx_cli import clock
from styx_cli.local.children import Child
from styx_cli.local.folder import LocalFolder
from styx_cli.local.processes import holder_of_lock

_AGENT_SECONDS = 25.0
_STOP_SECONDS = 30.0
_POLL_SECONDS = 0.05

Say = Callable[[str], None]


async def stop_all(
    folder: LocalFolder, agents: Sequence[Child], stages: Sequence[Sequence[Child]], *, hurry: asyncio.Event, say: Say
) -> None:
    """Stops the agents together, then the others. Leaves nothing behind.

    Args:
        folder: where the agents' folders are.
        agents: in the order of their numbers.
        stages: the others, stage after stage; those of one go together.
        hurry: set when nobody wants to wait any more: everything is killed.
        say: for people.
    """
    say("stopping")
    async with asyncio.TaskGroup() as group:
        hurrying = group.create_task(_kill_when_hurried([*agents, *chain.from_iterable(stages)], hurry))
        async with asyncio.TaskGroup() as together:
            for number, agent in enumerate(agents, start=1):
                together.create_task(_stop_agent(folder, number, agent, say))
        for stage in stages:
            async with asyncio.TaskGroup() as together:
                for child in stage:
                    together.create_task(_stop_child(child, say))
        hurrying.cancel()
    say("stopped")


async def _stop_child(child: Child, say: Say) -> None:
    if not await child.stop(_STOP_SECONDS):
        say(f"the {child.name} did not stop in time and was killed")


async def _stop_agent(folder: LocalFolder, number: int, agent: Child, say: Say) -> None:
    if not await agent.stop(_AGENT_SECONDS):
        say(f"{agent.name} did not stop in time and was killed")
    # Its supervisor outlives a link that was killed; it stops its tasks when it is asked.
    lock = folder.agent(number) / "supervisor.lock"
    for number_of_signal in (signal.SIGTERM, signal.SIGKILL):
        holder = holder_of_lock(lock)
        if holder is None:
            return
        with suppress(ProcessLookupError, TimeoutError):
            os.kill(holder, number_of_signal)
            async with asyncio.timeout(_AGENT_SECONDS):
                while holder_of_lock(lock) == holder:
                    await clock.sleep(_POLL_SECONDS)


async def _kill_when_hurried(children: Sequence[Child], hurry: asyncio.Event) -> None:
    await hurry.wait()
    for child in children:
        child.signal(signal.SIGKILL)
