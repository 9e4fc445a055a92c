"""Whether ten tasks of one tenant start soon though another has a million waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import styx
from benchmarks.bench import Bench
from benchmarks.bulk import bulk
from benchmarks.crews.running import CrewSettings, RunningCrew, running_crew
from benchmarks.figures import Figure, Scenario, at_most, at_share
from styx_agent import clock

CROWD = 1_000_000
TEN = 10
TARGET = at_most(2)
# Taken by the agents meanwhile: of the crowd a million wait to the end.
_SPARE = 60_000
# Each submits ten tasks; a p99 needs a few hundred of them.
_REPEATS = 30
_WARM_UP = 3
_GAP_SECONDS = 0.2
# Tasks last a second, so that a thousand slots come free a thousand times a second and the crowd takes all of them:
# a busy cluster, and a server that is not.
_CREW = CrewSettings(agents=10, cpus=100, hold_seconds=1.0, keeps_times=True)


async def run(bench: Bench) -> Sequence[Figure]:
    """First the one alone, then beside the other, on the same server."""
    repeats = bench.repeats(_REPEATS)
    async with (
        bench.stack(agents=0) as stack,
        running_crew(stack, _CREW) as crew,
        styx.AsyncClient(data_dir=stack.data_dir, namespace="few") as client,
        bulk(stack, "crowd") as submitter,
    ):
        await _spans(client, crew, _WARM_UP)
        quiet = await _spans(client, crew, repeats)
        await submitter.submit(bench.scaled(CROWD + _SPARE))
        bench.say("the crowd waits")
        await _spans(client, crew, _WARM_UP)
        busy = await _spans(client, crew, repeats)
    return [
        at_share(0.5, "ms", busy, quiet, name="start of ten"),
        at_share(0.99, "ms", busy, quiet, name="start of ten", target=TARGET),
    ]


async def _spans(client: styx.AsyncClient, crew: RunningCrew, repeats: int) -> list[float]:
    """Milliseconds from each submit until each of the ten was with its agent."""
    spans: list[float] = []
    for _ in range(repeats):
        began = clock.boottime_micros()
        task_ids = await client.submit_tasks([["/bin/true"]] * TEN)
        spans += [(came - began) / 1000 for came in await crew.received(task_ids)]
        await asyncio.sleep(_GAP_SECONDS)
    return spans


SCENARIO = Scenario(
    name="fairness",
    measures=f"Start of ten tasks of one namespace while another has {CROWD:,} waiting, against the one alone.",
    run=run,
)
