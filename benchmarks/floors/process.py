"""A floor, or another program of a scenario, as a process: started, asked, ended. Its other side is `answering.py`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

from benchmarks.figures import Usage
from benchmarks.processes import usage_below

_ROOT = Path(__file__).resolve().parents[2]
_LONGEST_LINE = 64 << 20


class FloorProcess:
    """A running program; asked one question at a time.

    Attributes:
        said: what it said about itself when it was ready.
    """

    def __init__(self, process: asyncio.subprocess.Process, said: dict[str, Any]) -> None:
        self.said = said
        self._process = process

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def usage(self) -> Usage:
        """What it has used so far, and what it started."""
        return usage_below(self.pid, "floor")

    async def ask(self, **question: Any) -> dict[str, Any]:
        """Has it do its work once; returns what it says about it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        return await _line(self._process)


def running_floor(module: str, *words: str) -> AbstractAsyncContextManager[FloorProcess]:
    """`python -m benchmarks.floors.MODULE` for the length of a block."""
    return running_program(f"benchmarks.floors.{module}", *words)


@asynccontextmanager
async def running_program(
    module: str, *words: str, env: Mapping[str, str] | None = None
) -> AsyncIterator[FloorProcess]:
    """`python -m MODULE` for the length of a block; `env` is all of its environment, None: ours."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        *words,
        cwd=_ROOT,
        env=env,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_LONGEST_LINE,
    )
    try:
        yield FloorProcess(process, await _line(process))
    finally:
        assert process.stdin is not None
        process.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(30):
                await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _line(process: asyncio.subprocess.Process) -> dict[str, Any]:
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line:
        raise RuntimeError(f"the floor ended with code {await process.wait()}; its words are on stderr")
    answer: dict[str, Any] = json.loads(line)
    return answer
