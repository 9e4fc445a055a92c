"""The catalog: every scenario has its file, its name and its sentence."""

from __future__ import annotations

import pytest

from benchmarks.catalog import UnknownScenario, all_names, choose, load


@pytest.mark.parametrize("name", all_names())
def test_every_scenario_says_what_it_measures_in_one_sentence(name: str) -> None:
    scenario = load(name)
    assert scenario.name == name
    assert scenario.measures.endswith(".")
    assert ". " not in scenario.measures


def test_all_are_chosen_when_none_is_named() -> None:
    assert [scenario.name for scenario in choose("")] == all_names()


def test_some_are_chosen_by_name_in_the_order_given() -> None:
    assert [scenario.name for scenario in choose("throughput, cli")] == ["throughput", "cli"]


def test_a_name_that_was_misspelt_is_answered_with_the_right_one() -> None:
    with pytest.raises(UnknownScenario, match="did you mean throughput"):
        load("troughput")
