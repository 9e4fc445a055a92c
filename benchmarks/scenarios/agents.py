"""What 5,000 agents cost that do nothing, and how soon one of them has a task when there are 200 a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from benchmarks.bench import Bench
from benchmarks.crews.running import CrewSettings, RunningCrew, running_crew
from benchmarks.figures import Figure, Scenario, alone, at_most, at_share
from benchmarks.stack import Stack
from styx_agent import clock

AGENTS = 5_000
TASKS_PER_SECOND = 200
# Each beats every ten seconds.
IDLE_SECONDS = 30
LOADED_SECONDS = 15
# Joining leaves work behind: connections are trimmed, caches are written. It is not part of being idle.
_SETTLE_SECONDS = 5.0


async def run(bench: Bench) -> Sequence[Figure]:
    """Connects them, lets them be, then gives them work."""
    agents = bench.scaled(AGENTS)
    settings = CrewSettings(agents=agents, cpus=2, keeps_times=True)
    async with bench.stack(agents=0) as stack:
        before = _server_bytes(stack)
        async with running_crew(stack, settings) as crew:
            bench.say(f"{agents:,} agents joined in {crew.join_seconds:.0f} s")
            await asyncio.sleep(_SETTLE_SECONDS)
            cores = await _idle(bench, stack, agents)
            each = (_server_bytes(stack) - before) / agents / 1024
            micros = await _loaded(bench, stack, crew)
    spans = [each / 1000 for each in micros]
    return [
        alone("server, idle", "% of a core", [cores * 100], target=at_most(15, of="value")),
        alone("memory for each", "KiB", [each], target=at_most(60, of="value")),
        at_share(0.5, "ms", spans, name="dispatch"),
        at_share(0.99, "ms", spans, name="dispatch", target=at_most(300, of="value")),
    ]


async def _idle(bench: Bench, stack: Stack, agents: int) -> float:
    """How many cores the server takes for beats."""
    seconds = bench.scaled(IDLE_SECONDS)
    before = stack.usage()
    async with bench.costing(stack, name="idle", unit="agent and minute", count=agents * seconds / 60):
        await asyncio.sleep(seconds)
    return stack.usage().since(before).cpu_seconds["server"] / seconds


async def _loaded(bench: Bench, stack: Stack, crew: RunningCrew) -> list[int]:
    """Submits at a steady rate, one at a time; returns the microseconds from each submit to its agent."""
    count = bench.scaled(TASKS_PER_SECOND * LOADED_SECONDS)
    submitted: dict[str, int] = {}
    async with (
        stack.client() as client,
        bench.costing(stack, name=f"{TASKS_PER_SECOND} tasks/s", unit="task", count=count),
        asyncio.TaskGroup() as group,
    ):
        await client.server_info()

        async def submit() -> None:
            now = clock.boottime_micros()
            submitted[await client.submit_task(["/bin/true"])] = now

        began = time.perf_counter()
        for number in range(count):
            await asyncio.sleep(max(0.0, began + number / TASKS_PER_SECOND - time.perf_counter()))
            group.create_task(submit())
    received = await crew.received(list(submitted))
    return [came - sent for came, sent in zip(received, submitted.values(), strict=True)]


def _server_bytes(stack: Stack) -> int:
    return stack.usage().peak_bytes["server"]


SCENARIO = Scenario(
    name="agents",
    measures=f"{AGENTS:,} connected agents: what they cost idle, and how soon a task is with one at "
    f"{TASKS_PER_SECOND} a second.",
    run=run,
)
