"""What goes wrong, when, and to whom: a plan that follows from a seed, and a journal of what was done.

Three lanes at once: the servers, what they stand on, and the agents. Inside a lane one fault follows the other. A fault
is a function that does harm, waits, and undoes it. Next: `harm.py` holds them all.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.faults import harm
from tests.faults.cluster import Cluster
from tests.faults.history import Recorder

ALL = "all"
"""The one lane of those who want no two faults at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        target: says which replica, agent or table it happens to: counted around.
        pause_seconds: how long all is well before it.
        seconds: how long it lasts.
    """

    kind: str
    target: int
    pause_seconds: float
    seconds: float


class Nemesis:
    """Carries out a plan on a cluster."""

    def __init__(self, cluster: Cluster, record: Recorder) -> None:
        self._cluster = cluster
        self._record = record
        self._number = 0

    async def run(self, plans: Sequence[Iterator[Fault]], over: asyncio.Event) -> None:
        """Every plan at the same time, each until it ends or all is over."""
        async with asyncio.TaskGroup() as group:
            for plan in plans:
                group.create_task(self._lane(plan, over))

    async def _lane(self, plan: Iterator[Fault], over: asyncio.Event) -> None:
        for fault in plan:
            if await happens(over, fault.pause_seconds):
                return
            await self.do(fault, over)

    async def do(self, fault: Fault, over: asyncio.Event) -> None:
        """One fault, from harm to healing."""
        self._number += 1
        facts = {"number": self._number, "kind": fault.kind, "target": fault.target}
        self._record.write("begin", **facts, seconds=fault.seconds)
        try:
            async with harm.KINDS[fault.kind].inflict(self._cluster, fault.target):
                await happens(over, fault.seconds)
        finally:
            self._record.write("healed", **facts)


async def happens(event: asyncio.Event, within_seconds: float) -> bool:
    """Waits for an event, at most so long."""
    try:
        async with asyncio.timeout(within_seconds):
            return await event.wait()
    except TimeoutError:
        return False


def plan(seed: int, lane: str, cluster: Cluster, *, pause_seconds: float) -> Iterator[Fault]:
    """Faults without end for one lane, each as likely as its weight says."""
    dice = random.Random(f"{seed}/{lane}")
    kinds = {name: kind for name, kind in harm.KINDS.items() if lane in (kind.lane, ALL) and kind.possible(cluster)}
    weights = [kind.weight for kind in kinds.values()]
    while True:
        (name,) = dice.choices(list(kinds), weights=weights)
        yield Fault(
            kind=name,
            target=dice.randrange(1000),
            pause_seconds=dice.uniform(0.3, 2) * pause_seconds,
            seconds=dice.uniform(*kinds[name].seconds) * cluster.shape.lease_scale / 0.2,
        )
