"""How long one task takes, from the submit until its end is seen by the client, when there is nothing else to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.bench import IDLE_SECONDS, Bench, seconds_of
from benchmarks.figures import Figure, Scenario, at_most, at_share, percentile

TASKS = 200
ARGV = ["/bin/true"]
TARGET_P50 = at_most(2.0)
TARGET_P99 = at_most(8.0)
_WARM_UP = 10


async def run(bench: Bench) -> Sequence[Figure]:
    """One task after the other, in turn with the floor."""
    tasks = bench.scaled(TASKS)
    async with (
        bench.stack() as stack,
        stack.client() as client,
        bench.database() as database,
        bench.floor("command", database.url) as floor,
    ):

        async def floor_once() -> float:
            return float((await floor.ask(argv=ARGV, until="end"))["seconds"]) * 1000

        async def through() -> None:
            await client.wait(await client.submit_task(ARGV))

        async def styx_once() -> float:
            return await seconds_of(through()) * 1000

        await bench.turns(_WARM_UP, floor=floor_once, styx=styx_once)
        async with bench.costing(stack, name="one at a time", unit="task", count=tasks):
            seen = await bench.turns(tasks, floor=floor_once, styx=styx_once, pause_seconds=IDLE_SECONDS)
    usual = percentile(seen.floor, 0.5)
    return [
        at_share(0.5, "ms", seen.styx, seen.floor, target=TARGET_P50),
        # Held against what the floor mostly takes: its own p99 is as much of an accident as ours.
        replace(at_share(0.99, "ms", seen.styx, [usual], target=TARGET_P99), name="p99 to floor's p50"),
        at_share(0.99, "ms", seen.styx, seen.floor),
    ]


SCENARIO = Scenario(
    name="latency",
    measures=f"One task of /bin/true from submit to its end seen by the client, {TASKS} times on an idle system.",
    run=run,
)
