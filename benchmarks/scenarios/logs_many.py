"""How soon a line is with who follows it, when many tasks talk."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from contextlib import aclosing

import styx
from benchmarks.bench import Bench
from benchmarks.figures import Figure, Scenario, Target, alone, at_most, percentile
from benchmarks.output import LINE_BYTES, Talk, opened, talker
from styx.models import TaskState

TASKS = 200
FOLLOWERS = 20
SECONDS = 30
# A hundred lines a second, ten at a time, as a program with a buffer prints them. One at a time, 200 tasks wake up
# twenty thousand times a second; that takes more than one of two cores, and then the machine is what is measured.
_WRITES_PER_SECOND = 10
TALK = Talk(writes=_WRITES_PER_SECOND * SECONDS, lines_per_write=10, writes_per_second=_WRITES_PER_SECOND)
TARGET = at_most(500, of="value")
# Two hundred interpreters start on two cores first; that is not part of it.
_SETTLE_SECONDS = 3.0


async def run(bench: Bench) -> Sequence[Figure]:
    """Starts all, follows some, lets all talk, and looks at the clock when a line comes."""
    tasks, followers = bench.scaled(TASKS), bench.scaled(FOLLOWERS)
    gate = bench.folder / "gate"
    os.mkfifo(gate)
    async with bench.stack(slots=tasks) as stack, stack.client() as client:
        task_ids = await client.submit_tasks([talker(gate, TALK)] * tasks)
        async with asyncio.TaskGroup() as group:
            following = [group.create_task(_ages(client, task_id)) for task_id in task_ids[:followers]]
            await _until_all_run(client, task_ids)
            with opened(gate):
                thousands = tasks * TALK.lines / 1000
                async with bench.costing(stack, name=f"{tasks} tasks talk", unit="1,000 lines", count=thousands):
                    await asyncio.sleep(SECONDS)
                ended = await client.wait_all(task_ids)
    assert all(task.state is TaskState.SUCCEEDED for task in ended)
    ages = [age for follower in following for age in follower.result()]
    return [
        _at_share(0.5, ages),
        _at_share(0.99, ages, TARGET),
        alone("slowest line", "ms", [max(ages)]),
        alone("lines that did not come", "lines", [followers * TALK.lines - len(ages)], target=at_most(0, of="value")),
    ]


def _at_share(share: float, ages: Sequence[float], target: Target | None = None) -> Figure:
    """Keeps a hundred of the sixty thousand ages, those that have one in a hundred of the others between them."""
    kept = tuple(percentile(ages, each / 100) for each in range(1, 101))
    name = f"line at its follower p{share * 100:g}"
    return Figure(name=name, unit="ms", value=percentile(ages, share), target=target, raw=kept)


async def _until_all_run(client: styx.AsyncClient, task_ids: Sequence[str]) -> None:
    waiting = set(task_ids)
    async with aclosing(client.watch(task_ids)) as updates:
        while waiting:
            update = await anext(updates)
            assert not any(task.state.is_terminal for task in update.tasks), "a task ended before it was let"
            waiting -= {task.id for task in update.tasks if task.state is TaskState.RUNNING}
    await asyncio.sleep(_SETTLE_SECONDS)


async def _ages(client: styx.AsyncClient, task_id: str) -> list[float]:
    """Milliseconds from the writing of each line until all of it was here."""
    ages: list[float] = []
    rest = b""
    async for chunk in client.logs(task_id, follow=True, stream="stdout"):
        now = time.monotonic_ns()
        *lines, rest = (rest + chunk.data).split(b"\n")
        ages += [(now - int(line.split(b" ", 1)[0])) / 1e6 for line in lines]
    return ages


SCENARIO = Scenario(
    name="logs_many",
    measures=f"How soon a line is with its follower: {TASKS} tasks each print {TALK.lines // SECONDS} lines of "
    f"{LINE_BYTES} bytes a second for {SECONDS} s, and {FOLLOWERS} of them are followed.",
    run=run,
)
