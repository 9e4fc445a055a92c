"""What a scenario is given: a folder, a Styx, floors, a database, turns, and a place to write down what things cost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from benchmarks.figures import Cost, Usage
from benchmarks.floors.database import Database, running_database
from benchmarks.floors.process import FloorProcess, running_floor
from benchmarks.processes import together
from benchmarks.stack import Stack, running_stack

Measure = Callable[[], Awaitable[float]]

IDLE_SECONDS = 0.01
"""Long enough for a system to be idle again after one task."""


@dataclass(slots=True)
class Turns:
    """What the floor and Styx gave, in turn: the first of one belongs to the first of the other."""

    floor: list[float] = field(default_factory=list)
    styx: list[float] = field(default_factory=list)


class AtWork(Protocol):
    """Processes that can be asked what they have used so far."""

    def usage(self) -> Usage:
        """By role."""
        ...


class Bench:
    """One run of one scenario.

    Attributes:
        folder: for its files; removed afterwards.
        say: tells who waits how far it is.
        costs: what was written down.
    """

    def __init__(
        self,
        folder: Path,
        *,
        say: Callable[[str], None] = lambda _: None,
        repeats: int | None = None,
        scale: float = 1.0,
    ) -> None:
        self.folder = folder
        self.say = say
        self.costs: list[Cost] = []
        self._repeats = repeats
        self._scale = scale
        self._made = 0

    def repeats(self, usual: int) -> int:
        """How often to repeat: what the command line says, else what is usual for this scenario."""
        return usual if self._repeats is None else self._repeats

    def scaled(self, usual: int) -> int:
        """How much to do: what the scenario is about, or the part of it that was asked for."""
        return max(1, round(usual * self._scale))

    def stack(
        self,
        *,
        agents: int = 1,
        slots: int | None = None,
        replicas: int = 1,
        env: Mapping[str, str] | None = None,
    ) -> AbstractAsyncContextManager[Stack]:
        """A fresh Styx; see `running_stack`."""
        return running_stack(self._fresh("styx"), agents=agents, slots=slots, replicas=replicas, env=env)

    def floor(self, module: str, *words: str) -> AbstractAsyncContextManager[FloorProcess]:
        """A floor as a process: `benchmarks.floors.MODULE`."""
        return running_floor(module, *words)

    def database(self) -> AbstractAsyncContextManager[Database]:
        """An empty database for floors, in a cluster of its own that is set as a server's is."""
        return running_database(self._fresh("floor"))

    async def turns(
        self, times: int, *, floor: Measure, styx: Measure, what: str = "", pause_seconds: float = 0.0
    ) -> Turns:
        """Lets floor and Styx take turns, so that whatever disturbs the one disturbs the other.

        Args:
            times: how often each.
            floor: one measurement of the floor.
            styx: one measurement of Styx.
            what: tells of each turn; empty: silent, for turns that are short and many.
            pause_seconds: between two turns, so that what the one still has to do does not disturb the other.
        """
        seen = Turns()
        for number in range(1, times + 1):
            await asyncio.sleep(pause_seconds)
            seen.floor.append(await floor())
            await asyncio.sleep(pause_seconds)
            seen.styx.append(await styx())
            if what:
                self.say(f"{what}, {number} of {times}: floor {seen.floor[-1]:.4g}, Styx {seen.styx[-1]:.4g}")
        return seen

    @asynccontextmanager
    async def costing(self, *at_work: AtWork, name: str, unit: str, count: float) -> AsyncIterator[None]:
        """Writes down what the processes at work use during the block, for each of `count` units."""
        before = together(each.usage() for each in at_work)
        yield
        usage = together(each.usage() for each in at_work).since(before)
        self.costs.append(Cost(name=name, unit=unit, count=count, usage=usage))

    def _fresh(self, kind: str) -> Path:
        self._made += 1
        return self.folder / f"{kind}{self._made}"


async def seconds_of(work: Awaitable[object]) -> float:
    """How long it took."""
    began = time.perf_counter()
    await work
    return time.perf_counter() - began
