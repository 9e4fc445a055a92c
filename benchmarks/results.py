"""Results as JSON, and what an earlier result said of the same figures.

`results/` holds committed results, named by date and commit so that the last name is the newest. Of a figure that the
newest one lacks, an older one is asked.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.figures import Cost, Direction, Figure, Target, Usage
from benchmarks.machine import Load

FOLDER = Path(__file__).resolve().parent / "results"
_DIGITS = 5

FigureKey = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One scenario's run.

    Attributes:
        error: why there are no figures; empty when all went well.
    """

    scenario: str
    figures: Sequence[Figure] = ()
    costs: Sequence[Cost] = ()
    load: Load | None = None
    error: str = ""


def encode(outcome: Outcome) -> dict[str, Any]:
    """As plain data."""
    return {
        "scenario": outcome.scenario,
        "error": outcome.error,
        "load": asdict(outcome.load) if outcome.load else None,
        "figures": [_figure(figure) for figure in outcome.figures],
        "costs": [_cost(cost) for cost in outcome.costs],
    }


def decode(data: Mapping[str, Any]) -> Outcome:
    """From plain data."""
    return Outcome(
        scenario=data["scenario"],
        error=data["error"],
        load=Load(**data["load"]) if data["load"] else None,
        figures=tuple(_to_figure(each) for each in data["figures"]),
        costs=tuple(_to_cost(each) for each in data["costs"]),
    )


def earlier_figures(documents: Iterable[Mapping[str, Any]]) -> dict[FigureKey, float]:
    """What results said, the newest document first: for each figure the number that its target is about."""
    outcomes = (decode(scenario) for document in documents for scenario in document["scenarios"])
    figures = ((outcome.scenario, figure) for outcome in outcomes for figure in outcome.figures)
    found: dict[FigureKey, float] = {}
    for scenario, figure in figures:
        if figure.judged is not None:
            found.setdefault((scenario, figure.name), figure.judged)
    return found


def committed() -> list[dict[str, Any]]:
    """All committed results, the newest first."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--", f"{FOLDER.name}/*.json"],
        cwd=FOLDER.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    places = [FOLDER.parent / name for name in sorted(listed.stdout.split("\0"), reverse=True) if name]
    return [json.loads(place.read_text()) for place in places if place.exists()]


def _figure(figure: Figure) -> dict[str, Any]:
    data = asdict(figure) | {"reached": figure.reached}
    for name in ("value", "floor", "ratio"):
        data[name] = _short(data[name])
    for name in ("raw", "floor_raw"):
        data[name] = [_short(each) for each in data[name]]
    return data


def _to_figure(data: Mapping[str, Any]) -> Figure:
    given = {name: value for name, value in data.items() if name != "reached"}
    target = given.pop("target")
    if target is not None:
        target = Target(**(target | {"direction": Direction(target["direction"])}))
    raw, floor_raw = tuple(given.pop("raw")), tuple(given.pop("floor_raw"))
    return Figure(**given, target=target, raw=raw, floor_raw=floor_raw)


def _cost(cost: Cost) -> dict[str, Any]:
    return asdict(cost) | {"cpu_ms_each": {role: _short(each) for role, each in cost.cpu_ms_each().items()}}


def _to_cost(data: Mapping[str, Any]) -> Cost:
    given = {name: value for name, value in data.items() if name != "cpu_ms_each"}
    return Cost(**(given | {"usage": Usage(**given["usage"])}))


def _short(number: float | None) -> float | None:
    return None if number is None else float(f"{number:.{_DIGITS}g}")
