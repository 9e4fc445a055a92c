"""How long it takes to hand over a hundred thousand tasks, until all of them are stored."""

from __future__ import annotations

from collections.abc import Sequence

import styx
from benchmarks.bench import Bench, seconds_of
from benchmarks.figures import Figure, Scenario, at_most, paired

BATCHES = 10
BATCH = 10_000
"""As many as one call takes."""
ARGV = ["/bin/true"]
TARGET = at_most(3.0)
_REPEATS = 5


async def run(bench: Bench) -> Sequence[Figure]:
    """Batch after batch from one client, in turn with the floor. There is no agent, so nothing starts meanwhile."""
    batch = bench.scaled(BATCH)
    tasks = BATCHES * batch
    async with (
        bench.stack(agents=0) as stack,
        stack.client() as client,
        bench.database() as database,
        bench.floor("copy", database.url) as floor,
    ):

        async def floor_once() -> float:
            async with bench.costing(floor, database, name="floor", unit="task", count=tasks):
                return float((await floor.ask(batches=BATCHES, batch=batch))["seconds"])

        async def styx_once() -> float:
            async with bench.costing(stack, name="submit", unit="task", count=tasks):
                return await seconds_of(_submit(client, batch))

        await client.submit_tasks([ARGV] * 100)
        seen = await bench.turns(
            bench.repeats(_REPEATS), floor=floor_once, styx=styx_once, what=f"{tasks:,} tasks, seconds"
        )
    return [paired(f"{BATCHES} batches", "s", seen.styx, seen.floor, target=TARGET)]


async def _submit(client: styx.AsyncClient, batch: int) -> None:
    for _ in range(BATCHES):
        await client.submit_tasks([ARGV] * batch)


SCENARIO = Scenario(
    name="submit",
    measures=f"{BATCHES * BATCH:,} tasks handed over in {BATCHES} calls, until all are stored.",
    run=run,
)
