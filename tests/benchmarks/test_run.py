"""A whole run, as small as can be: real programs, no word about speed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.figures import Figure, Scenario
from benchmarks.one import run_one
from tests.support.until import until
from tools.leftovers import leftovers

ROOT = Path(__file__).resolve().parents[2]


def test_a_run_measures_floor_and_styx_and_leaves_nothing(tmp_path: Path) -> None:
    place = tmp_path / "result.json"
    words = ["--only", "throughput", "--repeats", "1", "--scale", "0.0005", "--output", str(place)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "left by the scenario" not in done.stderr
    assert done.stdout.split()[0] == "SCENARIO"
    document = json.loads(place.read_text())
    assert document["machine"]["cpus"] >= 1
    assert document["versions"]["commit"]
    (outcome,) = document["scenarios"]
    assert [figure["name"] for figure in outcome["figures"]] == ["2 slots", "8 slots"]
    assert all(len(figure["raw"]) == len(figure["floor_raw"]) == 1 for figure in outcome["figures"])
    styx = next(cost for cost in outcome["costs"] if cost["name"] == "2 slots")
    assert {"server", "postgres", "link", "supervisor", "tasks", "client"} <= styx["usage"]["cpu_seconds"].keys()
    assert styx["usage"]["peak_bytes"]["server"] > 1 << 20


def test_a_run_that_is_told_to_stop_leaves_nothing(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks", "--only", "submit", "--output", str(tmp_path / "result.json")],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        until(lambda: any(tmp_path.glob("styx-bench-*/styx1/endpoint.json")), "a server is up", seconds=60)
        running.send_signal(signal.SIGTERM)
        _, talk = running.communicate()
    assert running.returncode == 1
    assert "stopped; nothing was written" in talk
    assert "left by the scenario" not in talk
    assert leftovers(tmp_path) == {}
    assert list(tmp_path.iterdir()) == []


async def test_what_goes_wrong_in_a_scenario_is_its_outcome_and_what_it_started_is_stopped(tmp_path: Path) -> None:
    async def run(bench: Bench) -> Sequence[Figure]:
        async with bench.stack(agents=0):
            raise LookupError("nothing to measure here")

    outcome = await run_one(Scenario(name="bad", measures="Nothing.", run=run), Bench(tmp_path))
    assert "LookupError: nothing to measure here" in outcome.error
    assert outcome.figures == ()
    assert await asyncio.to_thread(leftovers, tmp_path) == {}


async def test_turns_are_taken_one_by_one(tmp_path: Path) -> None:
    seen: list[str] = []
    said: list[str] = []

    def measure(who: str, value: float):  # noqa: ANN202 - a small closure
        async def once() -> float:
            seen.append(who)
            return value

        return once

    bench = Bench(tmp_path, say=said.append)
    turns = await bench.turns(3, floor=measure("floor", 2.0), styx=measure("styx", 1.0), what="rates")
    assert seen == ["floor", "styx"] * 3
    assert (turns.floor, turns.styx) == ([2.0] * 3, [1.0] * 3)
    assert said[0] == "rates, 1 of 3: floor 2, Styx 1"


def test_the_command_line_knows_what_it_cannot_do() -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "benchmarks", *words], cwd=ROOT, capture_output=True, text=True, check=False
        )

    unknown = run("--only", "nonsense")
    assert unknown.returncode == 2
    assert "there is no scenario 'nonsense'" in unknown.stderr
    assert run("--scale", "0.5", "--save").returncode == 2
    listed = run("--list")
    assert listed.returncode == 0
    assert "throughput" in listed.stdout
