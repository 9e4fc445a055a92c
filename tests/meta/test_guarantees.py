"""A guarantee names the test that proves it, and that test exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "guarantees.md"

# Files of tests that are still being written; each leaves this list when it is there.
COMING = {"tests/faults/test_seeded.py"}
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", PAGE.read_text())))


def rows_of_deaths() -> list[str]:
    """The lines of the last table, without its title and its rule."""
    table = PAGE.read_text().split("## What happens when X dies")[1].strip().splitlines()
    return [line for line in table if line.startswith("| ")][2:]


@pytest.mark.parametrize(("file", "name"), [pair for pair in NAMED if pair[0] not in COMING])
def test_the_test_that_a_guarantee_names_exists(file: str, name: str) -> None:
    tree = ast.parse((ROOT / file).read_text())
    functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert name in functions


def test_every_row_of_what_dies_names_a_test() -> None:
    rows = rows_of_deaths()
    assert len(rows) >= 30
    assert [row for row in rows if not re.search(r"`tests/[\w/]+\.py::test_\w+`", row)] == []


def test_what_is_still_coming_is_named_and_not_there() -> None:
    assert {file for file, _ in NAMED} >= COMING
    assert [file for file in sorted(COMING) if (ROOT / file).exists()] == []
