"""How soon the first line of a task is on the screen, from the submit on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing

import styx
from benchmarks.bench import IDLE_SECONDS, Bench, seconds_of
from benchmarks.figures import Figure, Scenario, at_most, at_share

TASKS = 200
ARGV = ["echo", "hi"]
TARGET = at_most(4.0)
TARGET_MS = at_most(15.0, of="value")
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
            return float((await floor.ask(argv=ARGV, until="line"))["seconds"]) * 1000

        async def styx_once() -> float:
            task_id = ""

            async def to_the_line() -> None:
                nonlocal task_id
                task_id = await client.submit_task(ARGV)
                await _first_line(client, task_id)

            seconds = await seconds_of(to_the_line())
            await client.wait(task_id)
            return seconds * 1000

        await bench.turns(_WARM_UP, floor=floor_once, styx=styx_once)
        async with bench.costing(stack, name="one at a time", unit="task", count=tasks):
            seen = await bench.turns(tasks, floor=floor_once, styx=styx_once, pause_seconds=IDLE_SECONDS)
    return [
        at_share(0.5, "ms", seen.styx, seen.floor, target=TARGET),
        at_share(0.5, "ms", seen.styx, name="quiet machine", target=TARGET_MS),
        at_share(0.99, "ms", seen.styx, seen.floor),
    ]


async def _first_line(client: styx.AsyncClient, task_id: str) -> None:
    seen = b""
    async with aclosing(client.logs(task_id, follow=True)) as chunks:
        async for chunk in chunks:
            seen += chunk.data
            if seen.endswith(b"\n"):
                return
    raise RuntimeError(f"the output of {task_id} ended after {seen!r}")


SCENARIO = Scenario(
    name="first_line",
    measures=f"`echo hi` from submit to the line at the client, {TASKS} times, through the SDK and a warm channel.",
    run=run,
)
