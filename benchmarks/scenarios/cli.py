"""How long the everyday commands take, as a person at a terminal waits for them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping, Sequence

from benchmarks.bench import Bench, seconds_of
from benchmarks.figures import Figure, Scenario, at_most, paired
from benchmarks.stack import BIN

TARGETS_MS = {"version": 150.0, "status": 400.0, "list": 400.0}
_REPEATS = 11
_TASKS = 100


async def run(bench: Bench) -> Sequence[Figure]:
    """Each command in turn with an interpreter that does nothing, on a warm server with some tasks."""
    async with bench.stack() as stack, stack.client() as client:
        await client.wait_all(await client.submit_tasks([["true"]] * bench.scaled(_TASKS)))
        return [await _command(bench, word, stack.env) for word in TARGETS_MS]


async def _command(bench: Bench, word: str, env: Mapping[str, str]) -> Figure:
    async def floor_once() -> float:
        return await seconds_of(_run(env, sys.executable, "-c", "pass")) * 1000

    async def styx_once() -> float:
        return await seconds_of(_run(env, str(BIN / "styx"), word)) * 1000

    await bench.turns(2, floor=floor_once, styx=styx_once)
    seen = await bench.turns(bench.repeats(_REPEATS), floor=floor_once, styx=styx_once)
    target = at_most(TARGETS_MS[word], of="value")
    return paired(f"styx {word}", "ms", seen.styx, seen.floor, target=target)


async def _run(env: Mapping[str, str], *argv: str) -> None:
    nowhere, pipe = asyncio.subprocess.DEVNULL, asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*argv, env=env, stdin=nowhere, stdout=nowhere, stderr=pipe)
    _, talk = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"{' '.join(argv)} ended with code {process.returncode}: {talk.decode()}")


SCENARIO = Scenario(
    name="cli",
    measures="`styx version`, `styx status` and `styx list` on a warm server, beside `python -c pass`.",
    run=run,
)
