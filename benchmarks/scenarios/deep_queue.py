"""Whether a long queue slows what is taken from its front."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.bench import Bench
from benchmarks.bulk import Bulk, bulk
from benchmarks.crews.running import CrewSettings, RunningCrew, running_crew
from benchmarks.figures import Figure, Scenario, alone, at_least, at_most, paired
from benchmarks.stack import Stack

DEEP = 1_000_000
SHALLOW = 10_000
# So many are put behind the others before each repetition, and taken from the front in it.
TAKEN = 20_000
TARGET = at_least(0.85)
# The window of the queue that a leader has in memory is 50,000 tasks; this is what they, and a hundred thousand ended
# tasks in its caches, may take.
MEMORY_TARGET = at_most(256, of="value")
_REPEATS = 5
# Agents that answer at once: real ones would spend a millisecond on each process, and hide what the queue costs. They
# are held back while tasks are put in, with no more of them than a server has on its way when it is busy.
_CREW = CrewSettings(agents=4, cpus=1_000, is_open=False)


async def run(bench: Bench) -> Sequence[Figure]:
    """Two servers, one with a long queue and one with a short one; they take turns and are otherwise treated alike."""
    deep, shallow, taken = (bench.scaled(count) for count in (DEEP, SHALLOW, TAKEN))
    async with (
        bench.stack(agents=0) as short,
        bench.stack(agents=0) as long,
        running_crew(short, _CREW) as short_crew,
        running_crew(long, _CREW) as long_crew,
        bulk(short) as short_submitter,
        bulk(long) as long_submitter,
    ):
        await short_submitter.submit(shallow)
        async with bench.costing(long, name="submit", unit="task", count=deep):
            await long_submitter.submit(deep)
        bench.say(f"{deep:,} tasks wait")

        async def rate(stack: Stack, crew: RunningCrew, submitter: Bulk, name: str) -> float:
            await submitter.submit(taken)
            async with bench.costing(stack, name=f"take from {name}", unit="task", count=taken):
                return taken / await crew.let(taken)

        turns = await bench.turns(
            bench.repeats(_REPEATS),
            floor=lambda: rate(short, short_crew, short_submitter, f"{shallow:,}"),
            styx=lambda: rate(long, long_crew, long_submitter, f"{deep:,}"),
            what="tasks/s",
        )
        peak = long.usage().peak_bytes["server"] / 2**20
    return [
        paired(f"{DEEP:,} waiting", "tasks/s", turns.styx, turns.floor, target=TARGET),
        alone("memory of the leader", "MiB", [peak], target=MEMORY_TARGET),
    ]


SCENARIO = Scenario(
    name="deep_queue",
    measures=f"Tasks a second through the control plane with {DEEP:,} waiting, against {SHALLOW:,} waiting.",
    run=run,
)
