"""What people are shown: numbers, targets, comparisons, tables."""

from __future__ import annotations

import pytest

from benchmarks.figures import Cost, Usage, alone, at_least, at_most, paired
from benchmarks.machine import Load
from benchmarks.report import compared, costs_table, figures_table, number, target_words, words_about_load
from benchmarks.results import Outcome


def cells(line: str) -> list[str]:
    return [part.strip() for part in line.split("  ") if part.strip()]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.0, "0"),
        (0.61234, "0.612"),
        (3.6, "3.6"),
        (99.44, "99.4"),
        (1234.5, "1,234"),
        (23_456.0, "23,456"),
        (0.0154, "0.0154"),
        (0.000123, "0.000123"),
    ],
)
def test_numbers_have_three_digits_that_count(value: float | None, text: str) -> None:
    assert number(value) == text


def test_targets_are_said_as_people_say_them() -> None:
    assert target_words(None, "ms") == "-"
    assert target_words(at_least(0.6), "tasks/s") == ">= 0.6 of floor"
    assert target_words(at_most(15, of="value"), "ms") == "<= 15 ms"


@pytest.mark.parametrize(
    ("before", "text"), [(None, "-"), (0.5, "0.5 (+20 %)"), (0.8, "0.8 (-25 %)"), (0.6, "0.6 (+0 %)"), (0.0, "0")]
)
def test_the_last_result_is_compared_by_what_the_target_is_about(before: float | None, text: str) -> None:
    assert compared(paired("rate", "tasks/s", [60], [100]), before) == text


def test_each_figure_is_a_line() -> None:
    outcomes = [
        Outcome(
            scenario="throughput",
            figures=[
                paired("2 slots", "tasks/s", [700], [1000], target=at_least(0.6)),
                alone("8 slots", "tasks/s", [400]),
            ],
        ),
        Outcome(scenario="broken", error="Traceback ..."),
    ]
    head, two, eight, broken = figures_table(outcomes, {("throughput", "2 slots"): 0.5})
    assert head.split() == ["SCENARIO", "FIGURE", "STYX", "FLOOR", "RATIO", "TARGET", "REACHED", "LAST"]
    assert cells(two) == [
        "throughput",
        "2 slots",
        "700 tasks/s",
        "1,000",
        "0.7",
        ">= 0.6 of floor",
        "yes",
        "0.5 (+40 %)",
    ]
    assert cells(eight)[3:] == ["-"] * 5
    assert "failed" in broken
    assert "no" in broken.split()


def test_costs_are_by_role_and_roles_that_did_nothing_are_left_out() -> None:
    usage = Usage(
        cpu_seconds={"server": 1.0, "up": 0.0, "agents": 3.0, "link": 0.5},
        peak_bytes={"server": 64 << 20, "tasks": 1 << 20},
    )
    outcome = Outcome(scenario="throughput", costs=[Cost(name="2 slots", unit="task", count=1000, usage=usage)])
    head, line = costs_table([outcome])
    assert head.split()[-6:] == ["SERVER", "LINK", "AGENTS", "ALL", "PEAK", "MIB"]
    assert cells(line) == [
        "throughput",
        "2 slots",
        "task",
        "1",
        "0.5",
        "3",
        "4.5",
        "server 64",
    ]
    assert costs_table([Outcome(scenario="cli")]) == []


def test_a_disturbed_run_says_so() -> None:
    quiet = Outcome(scenario="a", load=Load(seconds=1, others_cores=0.1, stolen_cores=0.0))
    busy = Outcome(scenario="b", load=Load(seconds=1, others_cores=1.0, stolen_cores=0.25))
    assert words_about_load([quiet]) == ["The machine was quiet."]
    (words,) = words_about_load([quiet, busy])
    assert "BUSY" in words
    assert "b (1.0 cores by others, 0.2 stolen)" in words
    assert "a (" not in words
