"""Starts a crew of light agents, joined and connected, and asks it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

from benchmarks.floors.process import FloorProcess, running_program
from benchmarks.stack import Stack, bare_environment

ROLE = "agents"


@dataclass(frozen=True, slots=True, kw_only=True)
class CrewSettings:
    """What agents to have.

    Attributes:
        cpus: what each offers; a task takes one.
        hold_seconds: how long each attempt lasts; 0: start and end are reported together.
        is_open: whether they report at once, or hold everything until `let`.
        keeps_times: whether they can tell when a task came.
    """

    agents: int
    cpus: float
    hold_seconds: float = 0.0
    is_open: bool = True
    keeps_times: bool = False


class RunningCrew:
    """Agents that are connected."""

    def __init__(self, program: FloorProcess) -> None:
        self._program = program

    @property
    def join_seconds(self) -> float:
        """How long it took until each had joined, and had a beat stored."""
        return float(self._program.said["join_seconds"])

    async def let(self, count: int) -> float:
        """Lets the agents report until so many more ends are stored; returns the seconds that it took."""
        return float((await self._program.ask(let=count))["seconds"])

    async def received(self, task_ids: Sequence[str]) -> list[int]:
        """When each of these tasks came to its agent: microseconds of CLOCK_BOOTTIME. Waits for those to come."""
        answer = await self._program.ask(received=[int(task_id.removeprefix("t")) for task_id in task_ids])
        return [int(micros) for micros in answer["micros"]]


@asynccontextmanager
async def running_crew(stack: Stack, settings: CrewSettings) -> AsyncIterator[RunningCrew]:
    """Agents for the length of a block; what they cost is the role `agents`."""
    async with stack.client() as client:
        token = await client.create_join_token(max_uses=settings.agents, ttl=timedelta(hours=1))
    # Where gRPC is, they are told: finding out takes each of them an HTTP request, and that would be measured too.
    words = ["--server", f"grpc://{stack.grpc_address()}", "--agents", str(settings.agents)]
    words += ["--cpus", str(settings.cpus), "--hold", str(settings.hold_seconds)]
    words += [] if settings.is_open else ["--closed"]
    words += ["--times"] if settings.keeps_times else []
    env = bare_environment(stack.data_dir.parent) | {"STYX_JOIN_TOKEN": token.token}
    async with running_program("benchmarks.crews.program", *words, env=env) as program:
        stack.count_in(program.pid, ROLE)
        yield RunningCrew(program)
