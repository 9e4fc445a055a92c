"""Results for people: lines of text. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from benchmarks.figures import Cost, Figure, Target
from benchmarks.results import FigureKey, Outcome
from styx_cli.tables import Cell, draw

_FIGURE_TITLES = ("SCENARIO", "FIGURE", "STYX", "FLOOR", "RATIO", "TARGET", "REACHED", "LAST")
_ROLES = ("server", "postgres", "link", "supervisor", "tasks", "client", "floor")
_REACHED = {None: Cell("-", "dim"), True: Cell("yes", "green"), False: Cell("no", "red")}


def figures_table(
    outcomes: Iterable[Outcome], last: Mapping[FigureKey, float], *, width: int | None = None, colored: bool = False
) -> list[str]:
    """All figures, one in a line, beside their floors, their targets, and what the last committed result said."""
    rows = []
    for outcome in outcomes:
        for figure in outcome.figures:
            before = last.get((outcome.scenario, figure.name))
            rows.append([outcome.scenario, *_figure_cells(figure), compared(figure, before)])
        if outcome.error:
            rows.append([outcome.scenario, Cell("failed, see above", "red"), *["-"] * 4, _REACHED[False], "-"])
    return draw(_FIGURE_TITLES, rows, width=width, colored=colored)


def costs_table(outcomes: Iterable[Outcome], *, width: int | None = None, colored: bool = False) -> list[str]:
    """What the work took: for each unit by role, and memory at its peak."""
    costs = [(outcome.scenario, cost) for outcome in outcomes for cost in outcome.costs]
    roles = _roles_in([cost for _, cost in costs])
    titles = ["SCENARIO", "WORK", "CPU MS PER", *(role.upper() for role in roles), "ALL", "PEAK MIB"]
    rows = [[scenario, cost.name, cost.unit, *_cost_cells(cost, roles)] for scenario, cost in costs]
    return draw(titles, rows, width=width, colored=colored) if rows else []


def words_about_load(outcomes: Iterable[Outcome]) -> list[str]:
    """Which scenarios were disturbed."""
    busy = [
        f"{outcome.scenario} ({outcome.load.others_cores:.1f} cores by others, {outcome.load.stolen_cores:.1f} stolen)"
        for outcome in outcomes
        if outcome.load and outcome.load.is_busy
    ]
    if not busy:
        return ["The machine was quiet."]
    return [f"The machine was BUSY with other work during {', '.join(busy)}: trust ratios, not absolutes."]


def compared(figure: Figure, before: float | None) -> str:
    """What the last result said of a figure, and the change since."""
    if before is None or figure.judged is None:
        return "-"
    change = f" ({(figure.judged / before - 1) * 100:+.0f} %)" if before else ""
    return number(before) + change


def number(value: float | None) -> str:
    """Three digits that count, and no exponent."""
    if value is None:
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 0.001 or not value else f"{value:.6f}"


def target_words(target: Target | None, unit: str) -> str:
    """A target as people say it."""
    if target is None:
        return "-"
    sign = {"at least": ">=", "at most": "<="}[target.direction]
    return f"{sign} {number(target.bound)}{' ' + unit if target.of == 'value' else ' of floor'}"


def _figure_cells(figure: Figure) -> list[Cell | str]:
    return [
        figure.name,
        f"{number(figure.value)} {figure.unit}",
        number(figure.floor),
        number(figure.ratio),
        target_words(figure.target, figure.unit),
        _REACHED[figure.reached],
    ]


def _roles_in(costs: Sequence[Cost]) -> list[str]:
    """The roles that did anything: those of every stack in the order of the work, then the special ones."""
    seen = {role for cost in costs for role, each in cost.cpu_ms_each().items() if each >= 0.0005}
    return [role for role in _ROLES if role in seen] + sorted(seen - set(_ROLES))


def _cost_cells(cost: Cost, roles: Sequence[str]) -> list[str]:
    each, peaks = cost.cpu_ms_each(), cost.usage.peak_bytes
    memory = [f"{role} {peaks[role] / 2**20:,.0f}" for role in roles if role in peaks and role != "tasks"]
    return [*(number(each.get(role)) for role in roles), number(sum(each.values())), ", ".join(memory)]
