"""How soon an agent has a task that was just submitted, when there is nothing else to do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import grpc.aio

import styx
from benchmarks.bench import IDLE_SECONDS, Bench
from benchmarks.figures import Figure, Scenario, at_most, at_share
from benchmarks.floors.dispatch import SERVICE
from benchmarks.receiver import Receiver, receiving

TASKS = 500
ARGV = ["/bin/true"]
TARGET = at_most(2.0)
_WARM_UP = 20


class FloorClient:
    """A client of the floor, and the end of its stream."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._submit: Any = channel.unary_unary(f"/{SERVICE}/Submit")
        listen: Any = channel.unary_stream(f"/{SERVICE}/Session")
        self._stream = listen(b"")

    def close(self) -> None:
        """Listens no more."""
        self._stream.cancel()

    async def once(self) -> float:
        """Milliseconds from the call until the message is here."""
        began = time.perf_counter()
        call = self._submit(b"/bin/true")
        await self._stream.read()
        ended = time.perf_counter()
        await call
        return (ended - began) * 1000


async def run(bench: Bench) -> Sequence[Figure]:
    """One task after the other, in turn with the floor."""
    tasks = bench.scaled(TASKS)
    async with (
        bench.stack(agents=0) as stack,
        stack.client() as client,
        receiving(stack) as receiver,
        bench.database() as database,
        bench.floor("dispatch", database.url) as floor,
        grpc.aio.insecure_channel(f"127.0.0.1:{floor.said['port']}") as channel,
    ):
        floor_client = FloorClient(channel)

        async def styx_once() -> float:
            return await _once(client, receiver)

        await bench.turns(_WARM_UP, floor=floor_client.once, styx=styx_once)
        async with bench.costing(stack, name="one at a time", unit="task", count=tasks):
            seen = await bench.turns(tasks, floor=floor_client.once, styx=styx_once, pause_seconds=IDLE_SECONDS)
        floor_client.close()
    return [
        at_share(0.5, "ms", seen.styx, seen.floor, target=TARGET),
        at_share(0.99, "ms", seen.styx, seen.floor),
    ]


async def _once(client: styx.AsyncClient, receiver: Receiver) -> float:
    """Milliseconds from the call until the order is here; returns when everything about the task is over."""
    began = time.perf_counter()
    submitted = client.submit_task(ARGV)
    async with asyncio.TaskGroup() as group:
        group.create_task(submitted)
        received = await receiver.receipt()
    await receiver.settled()
    return (received - began) * 1000


SCENARIO = Scenario(
    name="dispatch",
    measures=f"From a submit to the agent's receipt, {TASKS} times, one at a time on an idle system.",
    run=run,
)
