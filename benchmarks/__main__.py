"""`make bench`: runs scenarios one after the other, prints the table, writes the JSON."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import machine, report, results
from benchmarks.catalog import UnknownScenario, choose
from benchmarks.figures import Scenario
from benchmarks.one import ANSWER
from benchmarks.results import Outcome
from tools.leftovers import leftovers

_ROOT = Path(__file__).resolve().parents[1]
_LATEST = Path("build") / "bench" / "latest.json"
_PATIENCE_SECONDS = 1800.0
_STOP_SECONDS = 120.0


def main() -> int:
    """The command line."""
    told = _arguments()
    try:
        scenarios = choose(told.only)
    except UnknownScenario as error:
        print(error, file=sys.stderr)
        return 2
    if told.list:
        for scenario in scenarios:
            print(f"{scenario.name:<15} {scenario.measures}")
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = time.monotonic()
    before: dict[str, Any] = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "scale": told.scale,
        "machine": machine.facts(),
        "versions": machine.versions(),
    }
    outcomes = [_run(scenario, told) for scenario in scenarios]
    _print(outcomes)
    place = _saved_place(before) if told.save else told.output
    _write(before | {"scenarios": [results.encode(outcome) for outcome in outcomes]}, place)
    print(f"\n{len(outcomes)} scenarios in {time.monotonic() - began:.0f} s; all of it is in {place}")
    if told.scale != 1:
        print(f"Everything was scaled by {told.scale:g}: no figure here says whether its target is reached.")
    return 1 if any(outcome.error for outcome in outcomes) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", default="", metavar="NAME[,NAME...]", help="these scenarios; default: all")
    parser.add_argument("--repeats", type=int, metavar="N", help="instead of the usual number of each scenario")
    parser.add_argument("--scale", type=float, default=1.0, metavar="X", help="so much of the work; for a quick look")
    parser.add_argument(
        "--output", type=Path, default=_LATEST, metavar="FILE", help="for the JSON; default: %(default)s"
    )
    parser.add_argument("--list", action="store_true", help="say what there is, and measure nothing")
    parser.add_argument("--save", action="store_true", help="write the result to benchmarks/results/, to be committed")
    told = parser.parse_args()
    if told.save and told.scale != 1:
        parser.error("a result with another scale says nothing of the targets, so it cannot be saved")
    return told


def _run(scenario: Scenario, told: argparse.Namespace) -> Outcome:
    """Runs a scenario in a process and a folder of its own; nothing of either is left."""
    print(f"{scenario.name}: {scenario.measures}", file=sys.stderr)
    # Not below a deep path: a socket's path is short.
    folder = Path(tempfile.mkdtemp(prefix="styx-bench-"))
    meter = machine.LoadMeter()
    try:
        words = [scenario.name, str(folder), f"--scale={told.scale}"]
        words += [f"--repeats={told.repeats}"] if told.repeats else []
        # In a session of its own: Ctrl-C in the terminal is ours to answer, once.
        process = subprocess.Popen([sys.executable, "-m", "benchmarks.one", *words], cwd=_ROOT, start_new_session=True)
        _wait(process)
        load = meter.read()
        answer = folder / ANSWER
        if not answer.exists():
            return Outcome(scenario=scenario.name, load=load, error=f"ended with code {process.returncode}")
        outcome = replace(results.decode(json.loads(answer.read_text())), load=load)
        if outcome.error:
            print(outcome.error, file=sys.stderr)
        return outcome
    finally:
        _sweep(folder)


def _wait(process: subprocess.Popen[bytes]) -> None:
    """Waits for a scenario; tells it to stop when it does not end, or when we are to stop."""
    try:
        process.wait(_PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        print(f"not over after {_PATIENCE_SECONDS:.0f} s; stopped", file=sys.stderr)
        process.terminate()
    except BaseException:
        process.terminate()
        raise
    finally:
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _sweep(folder: Path) -> None:
    """Removes the folder; a scenario that died could not stop what it had started."""
    for pid, command in leftovers(folder).items():
        print(f"left by the scenario and killed: {pid} {command}", file=sys.stderr)
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


def _print(outcomes: Sequence[Outcome]) -> None:
    colored = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    last = results.earlier_figures(results.committed())
    for lines in (
        report.figures_table(outcomes, last, colored=colored),
        report.costs_table(outcomes, colored=colored),
        report.words_about_load(outcomes),
    ):
        if lines:
            print("\n" + "\n".join(lines))


def _saved_place(document: Mapping[str, Any]) -> Path:
    """Where committed results are, under a name that sorts by time."""
    moment = datetime.fromisoformat(document["time"])
    return results.FOLDER / f"{moment:%Y-%m-%d-%H%M}-{document['versions']['commit'].rstrip('+')}.json"


def _write(document: Mapping[str, Any], place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps(document, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("stopped; nothing was written")
