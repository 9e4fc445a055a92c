"""How many tasks a second go through server and database, when no process is started for any."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from benchmarks.bench import Bench, seconds_of
from benchmarks.bulk import Bulk, bulk
from benchmarks.crews.running import CrewSettings, RunningCrew, running_crew
from benchmarks.figures import Figure, Scenario, at_least, paired

TASKS = 100_000
BATCH = 1_000
TARGET = at_least(0.50)
# Each takes ten seconds and more; five would be a quarter of the time that all scenarios have.
_REPEATS = 3
_SUBMITS_AT_ONCE = 4
_WARM_UP = 2_000
# A few large agents: as many slots as there are tasks on their way when the server is busy.
_CREW = CrewSettings(agents=4, cpus=1_000)


async def run(bench: Bench) -> Sequence[Figure]:
    """Submits while agents answer, until every end is stored; beside it the same rows through one connection."""
    tasks = bench.scaled(TASKS)
    async with (
        bench.stack(agents=0) as stack,
        running_crew(stack, _CREW) as crew,
        bulk(stack) as submitter,
        bench.database() as database,
        bench.floor("copy_and_update", database.url) as floor,
    ):
        await _through(crew, submitter, min(tasks, _WARM_UP))

        async def floor_rate() -> float:
            async with bench.costing(floor, database, name="floor", unit="task", count=tasks):
                answer = await floor.ask(batches=max(1, tasks // BATCH), batch=min(tasks, BATCH))
            return tasks / float(answer["seconds"])

        async def styx_rate() -> float:
            async with bench.costing(stack, name="through the control plane", unit="task", count=tasks):
                return tasks / await seconds_of(_through(crew, submitter, tasks))

        turns = await bench.turns(bench.repeats(_REPEATS), floor=floor_rate, styx=styx_rate, what="tasks/s")
    return [paired("tasks through", "tasks/s", turns.styx, turns.floor, target=TARGET)]


async def _through(crew: RunningCrew, submitter: Bulk, tasks: int) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(crew.let(tasks))
        group.create_task(submitter.submit(tasks, batch=BATCH, at_once=_SUBMITS_AT_ONCE))


SCENARIO = Scenario(
    name="control_plane",
    measures=f"{TASKS:,} tasks to agents that answer at once and start nothing, from submit until every end is stored.",
    run=run,
)
