"""Results: they come back as they were written, and older ones are found for a comparison."""

from __future__ import annotations

import json

from benchmarks.figures import Cost, Usage, alone, at_most, at_share, paired
from benchmarks.machine import Load
from benchmarks.results import Outcome, committed, decode, earlier_figures, encode


def an_outcome(scenario: str = "one", *, rate: float = 60.0) -> Outcome:
    usage = Usage(cpu_seconds={"server": 1.5}, peak_bytes={"server": 1 << 20})
    return Outcome(
        scenario=scenario,
        figures=(
            paired("rate", "tasks/s", [rate, rate], [100.0, 100.0]),
            at_share(0.99, "ms", [1.5, 2.5], target=at_most(15, of="value")),
        ),
        costs=(Cost(name="work", unit="task", count=100, usage=usage),),
        load=Load(seconds=10.0, others_cores=0.5, stolen_cores=0.0),
    )


def test_an_outcome_comes_back_from_json_as_it_was() -> None:
    outcome = an_outcome()
    assert decode(json.loads(json.dumps(encode(outcome)))) == outcome


def test_a_failure_comes_back_too() -> None:
    failed = Outcome(scenario="one", error="Traceback ...")
    assert decode(json.loads(json.dumps(encode(failed)))) == failed


def test_json_says_whether_targets_were_reached_and_what_each_unit_cost() -> None:
    data = encode(an_outcome())
    assert [figure["reached"] for figure in data["figures"]] == [None, True]
    assert data["costs"][0]["cpu_ms_each"] == {"server": 15.0}


def test_numbers_are_as_long_as_they_mean_something() -> None:
    data = encode(Outcome(scenario="one", figures=[alone("a", "ms", [1.23456789])]))
    assert data["figures"][0]["raw"] == [1.2346]


def test_of_each_figure_the_newest_result_counts() -> None:
    newest = {"scenarios": [encode(an_outcome(rate=70.0))]}
    older = {"scenarios": [encode(an_outcome(rate=50.0)), encode(an_outcome("two", rate=40.0))]}
    assert earlier_figures([newest, older]) == {
        ("one", "rate"): 0.7,
        ("one", "p99"): 2.5,
        ("two", "rate"): 0.4,
        ("two", "p99"): 2.5,
    }


def test_what_is_committed_can_be_read() -> None:
    assert all(earlier_figures([document]) for document in committed())
