"""Finds the scenarios: each file of `scenarios/` has one."""

from __future__ import annotations

import difflib
import pkgutil
from collections.abc import Sequence
from importlib import import_module

from benchmarks import scenarios
from benchmarks.figures import Scenario


class UnknownScenario(Exception):
    """There is none with this name."""


def all_names() -> list[str]:
    """Of every scenario there is."""
    return [module.name for module in pkgutil.iter_modules(scenarios.__path__)]


def load(name: str) -> Scenario:
    """One scenario.

    Raises:
        UnknownScenario: there is none with this name.
    """
    if name not in all_names():
        close = difflib.get_close_matches(name, all_names(), n=1)
        remedy = f"did you mean {close[0]}?" if close else "`--list` shows all"
        raise UnknownScenario(f"there is no scenario {name!r}; {remedy}")
    scenario: Scenario = import_module(f"{scenarios.__name__}.{name}").SCENARIO
    return scenario


def choose(only: str) -> Sequence[Scenario]:
    """The scenarios that a text with commas names; all when it is empty.

    Raises:
        UnknownScenario: it names one that does not exist.
    """
    named = [each.strip() for each in only.split(",") if each.strip()]
    return [load(name) for name in named or all_names()]
