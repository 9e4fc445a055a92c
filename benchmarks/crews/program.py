"""One process full of agents that answer at once, or after a while; asked on stdin what they have seen."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
from typing import Any

from benchmarks.floors.answering import Answer, answer_all, timed
from styx_agent import clock
from tests.support.light_agents import Crew, CrewPlan, raise_file_limit
from tests.support.light_answers import Answers, Tally

_POLL_SECONDS = 0.05
# Not slowed down by a rate, but by how many the server has let in: whoever is kept waiting gives up, and comes again.
_JOINS_PER_SECOND = 1_000_000.0
_JOINS_AT_ONCE = 32


class Work:
    """What the crew is asked for."""

    def __init__(self, crew: Crew, tally: Tally) -> None:
        self._crew = crew
        self._tally = tally

    async def answer(self, question: dict[str, Any]) -> Answer:
        """`let`: opens the gate until so many more ends are stored. `received`: waits for tasks; when each came."""
        if "let" in question:
            return await timed(self._let(question["let"]))
        await self._tally.until_received(question["received"])
        assert self._tally.received is not None
        return {"micros": [self._tally.received.pop(task_id) for task_id in question["received"]]}

    async def _let(self, count: int) -> None:
        wanted = self._tally.ended + count
        self._tally.is_open = True
        self._crew.wake()
        await self._tally.until_ended(wanted)
        self._tally.is_open = False


async def run(told: argparse.Namespace) -> None:
    """Connects all, says so, answers until stdin ends."""
    tally = Tally(is_open=not told.closed, keeps_times=told.times)
    plan = CrewPlan(
        urls=(told.server,),
        agents=told.agents,
        join_token=os.environ["STYX_JOIN_TOKEN"],
        cpus=told.cpus,
        joins_per_second=_JOINS_PER_SECOND,
        joins_at_once=_JOINS_AT_ONCE,
    )
    crew = Crew(plan, lambda: Answers(tally, round(told.hold * 1e6)))
    began = clock.boottime_micros()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(crew.run())
        while crew.leased < told.agents:
            await clock.sleep(_POLL_SECONDS)
        gc.collect()
        gc.freeze()
        await answer_all(Work(crew, tally).answer, join_seconds=(clock.boottime_micros() - began) / 1e6)
        running.cancel()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crews.program", description=__doc__)
    parser.add_argument("--server", required=True, metavar="URL")
    parser.add_argument("--agents", type=int, required=True, metavar="N")
    parser.add_argument("--cpus", type=float, required=True, metavar="N", help="what each offers")
    parser.add_argument("--hold", type=float, default=0.0, metavar="SECONDS", help="how long each attempt lasts")
    parser.add_argument("--closed", action="store_true", help="hold what is assigned until somebody says `let`")
    parser.add_argument("--times", action="store_true", help="remember when each task came")
    raise_file_limit()
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
