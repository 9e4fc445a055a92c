"""Every named query is good SQL on the migrated schema, is used, and is called with its own parameters."""

from __future__ import annotations

import ast
from pathlib import Path

import asyncpg
import pytest

from styx_server.store.queries import load, parse

ROOT = Path(__file__).resolve().parents[2]
QUERIES = load()
CALLS = {"fetch", "fetch_row", "execute"}


async def test_every_query_is_accepted_by_the_migrated_schema(pool: asyncpg.Pool) -> None:
    faults = {}
    async with pool.acquire() as connection:
        for query in QUERIES.values():
            try:
                statement = await connection.prepare(query.sql)
                assert len(statement.get_parameters()) == len(query.parameters)
            except (asyncpg.PostgresError, AssertionError) as error:
                faults[query.name] = str(error)
    assert faults == {}


def test_every_query_is_used_and_every_name_is_a_query() -> None:
    assert set(_used()) == set(QUERIES)


def test_every_call_gives_the_parameters_of_its_query() -> None:
    for name, calls in _used().items():
        for keywords in calls:
            if None not in keywords:
                assert keywords == set(QUERIES[name].parameters), name


def test_text_outside_of_a_query_is_refused() -> None:
    with pytest.raises(ValueError, match="does not start with"):
        parse("select 1;\n-- name: a\n-- Does something.\nselect 1;\n", "x.sql")


def test_casts_and_repeated_names_are_told_from_parameters() -> None:
    (query,) = parse("-- name: a\n-- Does something.\nselect :x::int, :y, :x, 'a:b';\n", "x.sql")
    assert query.sql == "select $1::int, $2, $1, 'a:b'"
    assert query.parameters == ("x", "y")


def _used() -> dict[str, list[set[str | None]]]:
    """Names of queries in calls, with the keywords that each call gives; None among them stands for `**`."""
    found: dict[str, list[set[str | None]]] = {}
    for path in (ROOT / "styx_server").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CALLS):
                continue
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str) and " " not in first.value:
                found.setdefault(first.value, []).append({keyword.arg for keyword in node.keywords})
    return found
