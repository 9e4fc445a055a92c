"""Runs one scenario in this process: `python -m benchmarks.one NAME FOLDER`; the answer is FOLDER/outcome.json.

Each scenario has a process of its own, so that none inherits the memory, the event loop or the garbage of another.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.catalog import load
from benchmarks.figures import Scenario, merged
from benchmarks.results import Outcome, encode

ANSWER = "outcome.json"


async def run_one(scenario: Scenario, bench: Bench) -> Outcome:
    """Runs a scenario; what goes wrong in it is in the outcome."""
    try:
        figures = await scenario.run(bench)
    except Exception:  # noqa: BLE001 - whatever a scenario meets, the others shall run
        return Outcome(scenario=scenario.name, costs=merged(bench.costs), error=traceback.format_exc())
    return Outcome(scenario=scenario.name, figures=figures, costs=merged(bench.costs))


async def _until_stopped(scenario: Scenario, bench: Bench) -> Outcome:
    """As `run_one`; SIGTERM cancels it, so that what it started is stopped."""
    running = asyncio.current_task()
    assert running is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    return await run_one(scenario, bench)


def main() -> None:
    """The command line, for `__main__.py`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.one")
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repeats", type=int)
    parser.add_argument("--scale", type=float, default=1.0)
    told = parser.parse_args()
    bench = Bench(told.folder, say=_say(told.name), repeats=told.repeats, scale=told.scale)
    outcome = asyncio.run(_until_stopped(load(told.name), bench))
    (told.folder / ANSWER).write_text(json.dumps(encode(outcome)))


def _say(name: str) -> Callable[[str], None]:
    return lambda text: print(f"  {name}: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
