"""How quickly the output of one task reaches somebody who follows it, stored on the way."""

from __future__ import annotations

from collections.abc import Sequence

import styx
from benchmarks.bench import Bench, seconds_of
from benchmarks.figures import Figure, Scenario, alone, at_least, at_most, paired
from benchmarks.output import FILE_LINES, LINE_BYTES, write_lines

TIMES = 16
TARGET = at_least(100, of="value")
MEMORY_TARGET = at_most(200, of="value")
# A repetition writes and stores a GiB.
_REPEATS = 3
_MB = 1_000_000


async def run(bench: Bench) -> Sequence[Figure]:
    """A file is printed sixteen times by a task; beside it the same file through a pipe and into a table."""
    path = bench.folder / "lines"
    size = write_lines(path, bench.scaled(FILE_LINES)) * TIMES
    async with (
        bench.stack() as stack,
        stack.client() as client,
        bench.database() as database,
        bench.floor("pipe_and_insert", database.url, str(path)) as floor,
    ):
        bench.say(f"compressed, it is 1/{size / TIMES / floor.said['packed_bytes']:.1f}")

        async def floor_rate() -> float:
            async with bench.costing(floor, database, name="floor", unit="MB", count=size / _MB):
                return size / _MB / float((await floor.ask(times=TIMES))["seconds"])

        async def styx_rate() -> float:
            async with bench.costing(stack, name="follow", unit="MB", count=size / _MB):
                return size / _MB / await seconds_of(_follow(client, ["cat", *[str(path)] * TIMES], size))

        turns = await bench.turns(bench.repeats(_REPEATS), floor=floor_rate, styx=styx_rate, what="MB/s")
        peaks = stack.usage().peak_bytes
    return [
        paired("one follower", "MB/s", turns.styx, turns.floor, target=TARGET),
        alone("memory of the server", "MiB", [peaks["server"] / 2**20], target=MEMORY_TARGET),
        alone("memory of the link", "MiB", [peaks["link"] / 2**20], target=MEMORY_TARGET),
    ]


async def _follow(client: styx.AsyncClient, argv: Sequence[str], size: int) -> None:
    """Submits, and returns when the last byte has come. Whether they are the right ones is the business of tests."""
    task_id = await client.submit_task(argv)
    came = 0
    async for chunk in client.logs(task_id, follow=True):
        came += len(chunk.data)
    assert came == size, f"{came:,} of {size:,} bytes came"


SCENARIO = Scenario(
    name="logs_one",
    measures=f"A GiB of {LINE_BYTES}-byte lines of one task to a follower, from submit until the last byte has come.",
    run=run,
)
