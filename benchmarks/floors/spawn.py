"""Floor of throughput: a bare asyncio loop that starts processes, so many at once, and waits for each.

Output goes nowhere and nothing is stored, so this is the least that running the commands costs from Python.
"""

from __future__ import annotations

import asyncio
from typing import Any

from benchmarks.floors.answering import Answer, answer_all, timed


async def work(question: dict[str, Any]) -> Answer:
    """Runs `argv` `count` times, `at_once` of them at a time."""
    left = iter(range(question["count"]))

    async def slot() -> None:
        for _ in left:
            await _run(question["argv"])

    async def run_all() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(question["at_once"]):
                group.create_task(slot())

    return await timed(run_all())


async def _run(argv: list[str]) -> None:
    nowhere = asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*argv, stdin=nowhere, stdout=nowhere, stderr=nowhere)
    await process.wait()


if __name__ == "__main__":
    asyncio.run(answer_all(work))
