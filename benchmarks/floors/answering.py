"""The side of a floor: reads questions from stdin, a line of JSON each, and answers on stdout, until stdin ends."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

Answer = Mapping[str, Any]


async def answer_all(work: Callable[[dict[str, Any]], Awaitable[Answer]], **ready: Any) -> None:
    """Says that it is ready, with `ready`; then does the work once for each question."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    _say(ready)
    while line := await reader.readline():
        _say(await work(json.loads(line)))


async def timed(work: Awaitable[object]) -> dict[str, float]:
    """The answer of most floors: how long the work took."""
    began = time.perf_counter()
    await work
    return {"seconds": time.perf_counter() - began}


def _say(answer: Answer) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
