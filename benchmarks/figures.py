"""What a scenario finds out: figures beside their floors, and what they cost. Values and arithmetic only."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from benchmarks.bench import Bench


class Direction(StrEnum):
    """Which side of a target is the good one."""

    AT_LEAST = "at least"
    AT_MOST = "at most"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a figure must reach.

    Attributes:
        of: whether the bound is for the ratio to the floor, or for the value itself.
    """

    bound: float
    direction: Direction
    of: Literal["ratio", "value"] = "ratio"

    def is_reached(self, found: float) -> bool:
        """Whether what was found is good enough."""
        return found >= self.bound if self.direction is Direction.AT_LEAST else found <= self.bound


def at_least(bound: float, *, of: Literal["ratio", "value"] = "ratio") -> Target:
    """More is better."""
    return Target(bound=bound, direction=Direction.AT_LEAST, of=of)


def at_most(bound: float, *, of: Literal["ratio", "value"] = "ratio") -> Target:
    """Less is better."""
    return Target(bound=bound, direction=Direction.AT_MOST, of=of)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number, and what it is held against.

    Attributes:
        ratio: Styx to floor: a share for rates, a multiple for spans.
        raw: what each repetition gave; of a percentile, all samples.
    """

    name: str
    unit: str
    value: float
    floor: float | None = None
    ratio: float | None = None
    target: Target | None = None
    raw: tuple[float, ...] = ()
    floor_raw: tuple[float, ...] = ()

    @property
    def judged(self) -> float | None:
        """The number that the target is about; without a target the ratio, and without a floor the value."""
        of_value = self.ratio is None if self.target is None else self.target.of == "value"
        return self.value if of_value else self.ratio

    @property
    def reached(self) -> bool | None:
        """Whether the target is reached; None when there is none."""
        if self.target is None or self.judged is None:
            return None
        return self.target.is_reached(self.judged)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What processes have used so far, by role.

    Attributes:
        peak_bytes: most memory that the processes of a role had in use; what they share counts once.
    """

    cpu_seconds: Mapping[str, float] = field(default_factory=dict)
    peak_bytes: Mapping[str, int] = field(default_factory=dict)

    def since(self, earlier: Usage) -> Usage:
        """The processor time used in between; peaks as they are now."""
        spent = {role: used - earlier.cpu_seconds.get(role, 0.0) for role, used in self.cpu_seconds.items()}
        return Usage(cpu_seconds=spent, peak_bytes=self.peak_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What some work took.

    Attributes:
        name: which work, when a scenario does several kinds.
        unit: what is counted, for example `task`.
        count: how many of them.
    """

    name: str
    unit: str
    count: float
    usage: Usage

    def cpu_ms_each(self) -> dict[str, float]:
        """Milliseconds of processor time for one unit, by role."""
        return {role: seconds * 1000 / self.count for role, seconds in self.usage.cpu_seconds.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One thing to measure.

    Attributes:
        measures: what, in one sentence.
    """

    name: str
    measures: str
    run: Callable[[Bench], Awaitable[Sequence[Figure]]]


def merged(costs: Sequence[Cost]) -> list[Cost]:
    """Costs of the same work in one, for example of all repetitions."""
    by_work: dict[tuple[str, str], list[Cost]] = {}
    for cost in costs:
        by_work.setdefault((cost.name, cost.unit), []).append(cost)
    return [
        Cost(name=name, unit=unit, count=sum(each.count for each in same), usage=_sum([each.usage for each in same]))
        for (name, unit), same in by_work.items()
    ]


def alone(name: str, unit: str, raw: Sequence[float], *, target: Target | None = None) -> Figure:
    """A figure without a floor: the median."""
    return Figure(name=name, unit=unit, value=statistics.median(raw), target=target, raw=tuple(raw))


def paired(
    name: str, unit: str, raw: Sequence[float], floor: Sequence[float], *, target: Target | None = None
) -> Figure:
    """A figure whose repetitions took turns with those of its floor.

    The ratio is the median of the ratios of neighbours, which is steadier than the ratio of medians: whatever else the
    machine did at that moment, it did to both.
    """
    return Figure(
        name=name,
        unit=unit,
        value=statistics.median(raw),
        floor=statistics.median(floor),
        ratio=statistics.median(mine / least for mine, least in zip(raw, floor, strict=True)),
        target=target,
        raw=tuple(raw),
        floor_raw=tuple(floor),
    )


def at_share(
    share: float,
    unit: str,
    samples: Sequence[float],
    floor: Sequence[float] = (),
    *,
    name: str = "",
    target: Target | None = None,
) -> Figure:
    """A percentile of many samples, beside the same percentile of the floor's.

    Args:
        share: 0.5 for p50, 0.99 for p99.
        unit: of the samples.
        samples: of Styx.
        floor: of the floor; none when there is no floor.
        name: put before `p50`.
        target: what is to be reached.
    """
    value, least = percentile(samples, share), percentile(floor, share) if floor else None
    return Figure(
        name=f"{name} p{share * 100:g}".strip(),
        unit=unit,
        value=value,
        floor=least,
        ratio=value / least if least else None,
        target=target,
        raw=tuple(samples),
        floor_raw=tuple(floor),
    )


def percentile(samples: Sequence[float], share: float) -> float:
    """The sample below or at which that share of all lie."""
    ordered = sorted(samples)
    return ordered[max(0, -int(-len(ordered) * share // 1) - 1)]


def _sum(usages: Sequence[Usage]) -> Usage:
    cpu: dict[str, float] = {}
    peak: dict[str, int] = {}
    for usage in usages:
        cpu |= {role: cpu.get(role, 0.0) + seconds for role, seconds in usage.cpu_seconds.items()}
        peak |= {role: max(peak.get(role, 0), size) for role, size in usage.peak_bytes.items()}
    return Usage(cpu_seconds=cpu, peak_bytes=peak)
