"""Clients with a seed: they submit, cancel, retry, follow and wait, and write down what they asked and what they got.

A call whose answer is not known is repeated with the same request id until it is; what was unknown meanwhile is in the
history. What a task is to do follows from the seed and its number alone.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import styx
from styx.errors import Final, Retryable, TaskEnded, TaskNotEnded
from styx.models import RetryPolicy, Task, TaskSpec, TaskState
from styx.spec import task_spec
from tests.faults.history import Recorder
from tests.faults.observer import Pieces

STUB = Path(__file__).with_name("stub.py")
AGAIN_SECONDS = 0.5
SLOW_READER_SECONDS, SLOW_CHUNKS = 0.5, 20

Plan = dict[str, Any]
_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What the clients want.

    Attributes:
        rate: tasks a second, while there is room.
        most_open: so many that have not ended are enough; else a cluster that is slow for a while has more and more to
            do, and its customers keep it busy with questions.
        slowness: what the running times of tasks are multiplied by.
        disconnect_seconds: after which silence a task may be given up.
    """

    seed: int
    rate: float
    disconnect_seconds: float
    most_open: int = 120
    slowness: float = 1.0


def plan_of(demand: Demand, number: int) -> Plan:
    """What task `number` is to do, and what is to be done to it."""
    dice = random.Random(f"{demand.seed}/{number}")
    plan: Plan = dict(dice.choices(list(_KINDS.values()), weights=[9, 4, 2, 1, 1, 1])[0](dice))
    plan["seconds"] = round(plan["seconds"] * demand.slowness, 3)
    if dice.random() < 0.15:
        plan["codes"] = [dice.choice((1, 3, 77)), 0]
        plan["max_retries"] = dice.choice((0, 1, 2))
    elif dice.random() < 0.15:
        plan["at_most_once"] = True
    if dice.random() < 0.12:
        plan["cancel_after"] = round(dice.uniform(0, plan["seconds"] * 1.5), 3)
    if dice.random() < 0.05 and plan["seconds"] > 1:
        plan["timeout"] = round(plan["seconds"] * 0.6, 3)
    plan["retry"] = dice.random() < 0.3
    plan["follow"] = dice.choices(("", "quickly", "slowly"), weights=[16, 3, 1])[0]
    return plan


_KINDS: dict[str, Callable[[random.Random], Plan]] = {
    "quick": lambda dice: {"seconds": 0.0, "stdout": dice.randint(0, 3000), "stderr": dice.randint(0, 300)},
    "some seconds": lambda dice: {"seconds": dice.uniform(1, 6), "stdout": dice.randint(0, 100_000), "stderr": 1001},
    "noisy": lambda dice: {"seconds": dice.uniform(0.5, 3), "stdout": dice.randint(1, 4) << 20, "stderr": 200_003},
    "deaf": lambda dice: {"seconds": dice.uniform(2, 5), "deaf": True, "stdout": 5000},
    "parent": lambda dice: {"seconds": dice.uniform(0, 2), "child_seconds": 60, "stdout": 777},
    "long": lambda dice: {"seconds": dice.uniform(10, 25), "stdout": 300_007, "stderr": 11},
}


def spec_of(key: str, plan: Plan, runs: Path, disconnect_seconds: float) -> TaskSpec:
    """The task as it is submitted."""
    argv = (sys.executable, "-I", "-S", str(STUB), str(runs), key, json.dumps(plan))
    options: dict[str, Any] = {"name": key, "stop_grace": 1.0}
    options["disconnect_timeout"] = plan.get("disconnect", disconnect_seconds)
    if "timeout" in plan:
        options["timeout"] = plan["timeout"]
    spec = task_spec(argv, **options, at_most_once=bool(plan.get("at_most_once")), cpus=plan.get("cpus", 0.5))
    if "max_retries" in plan:
        spec = replace(spec, retry=RetryPolicy(max_retries=plan["max_retries"], backoff=timedelta(seconds=0.2)))
    return spec


class Customer:
    """One client's calls, each repeated until it is answered, all of them written down."""

    def __init__(self, client: styx.AsyncClient, record: Recorder, runs: Path, disconnect_seconds: float) -> None:
        self.record = record
        self.client = client
        self._runs = runs
        self._disconnect_seconds = disconnect_seconds

    async def submit(self, key: str, plan: Plan) -> str:
        """Submits; returns the id."""
        spec = spec_of(key, plan, self._runs, self._disconnect_seconds)
        self.record.write("submit", key=key, plan=plan)
        task_id = await self._surely(key, "submit", lambda: self.client.submit_task(spec, request_id=key))
        self.record.write("submit_ok", key=key, id=task_id)
        return task_id

    async def wait(self, key: str, task_id: str) -> Task:
        """Waits for an end. A task that is held for its bad luck is asked for again, as a person would."""
        while True:
            try:
                task = await self._surely(key, "wait", lambda: self.client.wait(task_id, timeout=5))
            except TimeoutError:
                task = await self._surely(key, "look", lambda: self.client.get_task(task_id))
                if task.reason == "held":
                    await self.retry(key, task_id, f"{key}/held{task.attempt_count}")
            if task.state.is_terminal:
                self.record.write("seen", key=key, state=str(task.state), exit_code=task.exit_code)
                return task

    async def cancel(self, key: str, task_id: str) -> None:
        """Asks for an end."""
        self.record.write("cancel", key=key, id=task_id)
        await self._surely(key, "cancel", lambda: self.client.cancel(task_id, request_id=f"{key}/cancel"))
        self.record.write("cancel_ok", key=key)

    async def retry(self, key: str, task_id: str, request_id: str) -> None:
        """Asks for one more attempt."""
        self.record.write("retry", key=key, id=task_id)
        try:
            await self._surely(key, "retry", lambda: self.client.retry(task_id, request_id=request_id))
        except (TaskEnded, TaskNotEnded):
            return
        self.record.write("retry_ok", key=key)

    async def follow(self, key: str, task_id: str, pause_seconds: float = 0.0) -> None:
        """Follows the output to its end, with pauses at the beginning, and writes down which bytes came."""
        got = Pieces()
        fences: dict[int, int] = {}
        try:
            pauses = iter([pause_seconds] * SLOW_CHUNKS)
            async for chunk in self.client.logs(task_id, follow=True):
                got.take(chunk)
                await asyncio.sleep(next(pauses, 0.0))
        except Retryable as error:
            self.record.write("follow_broken", key=key, error=repr(error))
        task = await self._surely(key, "look", lambda: self.client.get_task(task_id))
        fences = {attempt.number: attempt.fence for attempt in task.attempts}
        logs = [
            {"fence": fences[attempt], "stream": stream, "pieces": pieces, "gaps": gaps}
            for attempt, stream, pieces, gaps in got.streams()
        ]
        self.record.write("followed", key=key, logs=logs)

    async def _surely(self, key: str, what: str, call: Callable[[], Awaitable[_Answer]]) -> _Answer:
        """Calls until there is an answer; what could not be known is written down each time."""
        while True:
            try:
                return await call()
            except TimeoutError:
                raise
            except Retryable as error:
                self.record.write(f"{what}_unknown", key=key, error=repr(error)[:200])
            await asyncio.sleep(AGAIN_SECONDS)


class Load:
    """Many tasks, one after the other, each with a life of its own."""

    def __init__(self, customer: Customer, demand: Demand) -> None:
        self._customer = customer
        self._demand = demand
        self._dice = random.Random(f"{demand.seed}/arrivals")
        self._room = asyncio.Semaphore(demand.most_open)
        self.submitted = 0
        self.open = 0

    async def run(self, over: asyncio.Event) -> None:
        """Submits until it is over, and sees every task to its end."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        async with asyncio.TaskGroup() as group:
            while not over.is_set():
                due += self._dice.expovariate(self._demand.rate)
                await asyncio.sleep(max(0.0, due - loop.time()))
                await self._room.acquire()
                self.submitted += 1
                group.create_task(self._one(self.submitted))

    async def _one(self, number: int) -> None:
        key, plan = f"s{self._demand.seed}-{number}", plan_of(self._demand, number)
        self.open += 1
        try:
            task_id = await self._customer.submit(key, plan)
            async with asyncio.TaskGroup() as group:
                if plan["follow"]:
                    pause = SLOW_READER_SECONDS if plan["follow"] == "slowly" else 0.0
                    group.create_task(self._customer.follow(key, task_id, pause))
                if "cancel_after" in plan:
                    await asyncio.sleep(plan["cancel_after"])
                    await self._customer.cancel(key, task_id)
                await self._see_to_the_end(key, task_id, plan)
        except* Final as errors:
            # The checker will miss the task; this says why.
            self._customer.record.write("refused", key=key, error=repr(errors.exceptions))
        finally:
            self.open -= 1
            self._room.release()

    async def _see_to_the_end(self, key: str, task_id: str, plan: Plan) -> None:
        task = await self._customer.wait(key, task_id)
        if plan["retry"] and task.state is not TaskState.SUCCEEDED:
            await self._customer.retry(key, task_id, f"{key}/retry")
            await self._customer.wait(key, task_id)
