"""Every failpoint is in the code of its program, in the table of names, and on its page; and there are no others."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from styx.failpoints import POINTS

ROOT = Path(__file__).resolve().parents[2]
_NAME = re.compile(r"(server|link|supervisor)\.[a-z]+\.[a-z]+")
_ROWS = re.findall(r"^\| `([\w.]+)` \| (.+) \| .+ \|$", (ROOT / "docs" / "failpoints.md").read_text(), re.MULTILINE)
PAGE = {name: words for name, words in _ROWS if _NAME.fullmatch(name)}


def placed() -> Iterator[tuple[str, Path, ast.Call | None]]:
    """Each name in the code, its file, and the call that names it, if it is one."""
    for package in ("styx_server", "styx_agent", "styx_cli"):
        for path in sorted((ROOT / package).rglob("*.py")):
            tree = ast.parse(path.read_text())
            calls = {id(inner): node for node in ast.walk(tree) for inner in _named(node)}
            for node in ast.walk(tree):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and _NAME.fullmatch(node.value):
                    yield node.value, path.relative_to(ROOT), calls.get(id(node))


def _named(node: ast.AST) -> list[ast.AST]:
    """What stands in the first argument of a call to `hit` or `reach`."""
    is_one = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("hit", "reach")
    return list(ast.walk(node.args[0])) if is_one else []  # type: ignore[attr-defined]


def test_every_name_is_placed_once_in_its_program() -> None:
    names = [name for name, _, _ in placed()]
    assert sorted(names) == sorted(POINTS)
    for name, path, _ in placed():
        inside = path.is_relative_to("styx_agent/supervisor")
        home = {"server": "styx_server", "link": "styx_agent", "supervisor": "styx_agent/supervisor"}
        program = name.split(".")[0]
        assert path.is_relative_to(home[program]), name
        assert inside == (program == "supervisor"), name


def test_every_name_is_on_its_page() -> None:
    assert set(PAGE) == POINTS


def test_the_page_says_where_everything_waits_and_where_the_database_is_away() -> None:
    for name, path, call in placed():
        blocks = call is not None and isinstance(call.func, ast.Attribute) and call.func.attr == "hit"
        assert ("(all waits)" in PAGE[name]) == (blocks and not path.is_relative_to("styx_agent/supervisor")), name
        assert ("(away" in PAGE[name]) == (call is not None and len(call.args) > 1), name
