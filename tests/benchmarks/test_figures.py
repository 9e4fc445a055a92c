"""Figures: percentiles, ratios, targets, and costs that are put together."""

from __future__ import annotations

import pytest

from benchmarks.figures import Cost, Figure, Usage, alone, at_least, at_most, at_share, merged, paired, percentile


@pytest.mark.parametrize(
    ("samples", "share", "found"),
    [
        ([5.0], 0.5, 5.0),
        ([1, 2, 3, 4], 0.5, 2),
        ([4, 3, 2, 1], 0.75, 3),
        ([1, 2, 3, 4], 0.76, 4),
        (range(1, 101), 0.99, 99),
        (range(1, 201), 0.99, 198),
        ([1, 2, 3], 1.0, 3),
        ([1, 2, 3], 0.0, 1),
    ],
)
def test_a_percentile_is_a_sample_at_or_below_which_the_share_lies(
    samples: list[float], share: float, found: float
) -> None:
    assert percentile(samples, share) == found


def test_the_ratio_of_pairs_is_that_of_neighbours() -> None:
    # The second pair met a machine of half the speed, and says the same about the ratio.
    figure = paired("rate", "tasks/s", [60, 30, 66], [100, 50, 100])
    assert (figure.value, figure.floor, figure.ratio) == (60, 100, 0.6)
    assert figure.raw == (60, 30, 66)


def test_every_repetition_has_one_of_the_floor() -> None:
    with pytest.raises(ValueError, match="zip"):
        paired("rate", "tasks/s", [1, 2], [1])


def test_percentiles_are_held_against_the_same_percentile_of_the_floor() -> None:
    figure = at_share(0.5, "ms", [2, 4, 6], [1, 2, 3], name="to the line")
    assert (figure.name, figure.value, figure.floor, figure.ratio) == ("to the line p50", 4, 2, 2)
    assert at_share(0.99, "ms", [1.0]).ratio is None


@pytest.mark.parametrize(
    ("figure", "judged", "reached"),
    [
        (paired("a", "", [6], [10], target=at_least(0.6)), 0.6, True),
        (paired("a", "", [5], [10], target=at_least(0.6)), 0.5, False),
        (paired("a", "", [20], [10], target=at_most(2)), 2, True),
        (paired("a", "", [21], [10], target=at_most(2)), 2.1, False),
        (paired("a", "", [150], [20], target=at_most(150, of="value")), 150, True),
        (alone("a", "ms", [16], target=at_most(15, of="value")), 16, False),
        (paired("a", "", [6], [10]), 0.6, None),
        (alone("a", "ms", [16]), 16, None),
        (Figure(name="a", unit="ms", value=1, target=at_most(2)), None, None),
    ],
)
def test_a_target_is_about_the_ratio_or_about_the_value(
    figure: Figure, judged: float | None, reached: bool | None
) -> None:
    assert figure.judged == judged
    assert figure.reached is reached


def test_what_was_used_between_two_looks_is_the_difference_and_peaks_are_the_later_ones() -> None:
    before = Usage(cpu_seconds={"server": 1.0}, peak_bytes={"server": 10})
    after = Usage(cpu_seconds={"server": 3.0, "link": 0.5}, peak_bytes={"server": 20, "link": 5})
    spent = after.since(before)
    assert spent.cpu_seconds == {"server": 2.0, "link": 0.5}
    assert spent.peak_bytes == {"server": 20, "link": 5}


def test_costs_of_the_same_work_are_one() -> None:
    def cost(name: str, seconds: float, peak: int) -> Cost:
        usage = Usage(cpu_seconds={"server": seconds}, peak_bytes={"server": peak})
        return Cost(name=name, unit="task", count=100, usage=usage)

    two, other = merged([cost("a", 1.0, 7), cost("b", 5.0, 1), cost("a", 2.0, 6)])
    assert (two.name, two.count, two.usage.peak_bytes) == ("a", 200, {"server": 7})
    assert two.cpu_ms_each() == {"server": 15.0}
    assert other.cpu_ms_each() == {"server": 50.0}
