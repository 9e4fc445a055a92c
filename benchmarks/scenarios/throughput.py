"""How many tasks a second go through one agent, from a batch submit until every end is stored."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import styx
from benchmarks.bench import Bench, seconds_of
from benchmarks.figures import Figure, Scenario, at_least, paired

TASKS = 10_000
ARGV = ["/bin/true"]
SLOTS = (2, 8)
TARGET = at_least(0.60)
# One takes ten seconds and more, and so does one of the floor: five for both widths would be half of all the time.
_REPEATS = 3
_WARM_UP = 200
_LOOK_SECONDS = 0.1


async def run(bench: Bench) -> Sequence[Figure]:
    """Two agents, a narrow one and a wide one, one after the other."""
    return [await _with_slots(bench, slots, bench.scaled(TASKS)) for slots in SLOTS]


async def _with_slots(bench: Bench, slots: int, tasks: int) -> Figure:
    async with bench.stack(slots=slots) as stack, bench.floor("spawn") as floor, stack.client() as client:
        await _through(client, min(tasks, _WARM_UP))

        async def floor_rate() -> float:
            async with bench.costing(floor, name=f"{slots} slots, floor", unit="task", count=tasks):
                answer = await floor.ask(argv=ARGV, count=tasks, at_once=slots)
            return tasks / float(answer["seconds"])

        async def styx_rate() -> float:
            async with bench.costing(stack, name=f"{slots} slots", unit="task", count=tasks):
                return tasks / await seconds_of(_through(client, tasks))

        turns = await bench.turns(
            bench.repeats(_REPEATS),
            floor=floor_rate,
            styx=styx_rate,
            what=f"{slots} slots, tasks/s",
        )
    return paired(f"{slots} slots", "tasks/s", turns.styx, turns.floor, target=TARGET)


async def _through(client: styx.AsyncClient, tasks: int) -> None:
    """Submits, and returns when the end of each is stored.

    Asks now and then about the last one, which costs next to nothing: following 10,000 tasks would measure the
    following. The last one may overtake, so in the end all are looked at.
    """
    task_ids = await client.submit_tasks([ARGV] * tasks)
    while await _is_open(client, task_ids[-1]):  # noqa: ASYNC110 - the server is asked, no flag
        await asyncio.sleep(_LOOK_SECONDS)


async def _is_open(client: styx.AsyncClient, last: str) -> bool:
    if not (await client.get_status(last)).state.is_terminal:
        return True
    async for _ in client.list_tasks(filter="state=PENDING,RUNNING,CANCELLING", limit=1):
        return True
    return False


SCENARIO = Scenario(
    name="throughput",
    measures=f"{TASKS:,} tasks of /bin/true through one agent, from a batch submit until every end is stored.",
    run=run,
)
