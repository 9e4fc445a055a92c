"""The tour names what is there: every function, class, query and rpc that it speaks of exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORDS_OF_OTHERS = {"changed", "hello"}  # words of a protocol, and what the task prints


def _sources() -> str:
    folders = ("styx", "styx_server", "styx_agent", "styx_cli", "protos")
    files = [
        path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".sql", ".proto")
    ]
    return "\n".join(path.read_text("utf-8") for path in files if "_pb2" not in path.name)


def test_every_name_of_the_tour_is_defined_somewhere() -> None:
    sources = _sources()
    names = set(re.findall(r"`([A-Za-z_][\w.]*)`", (ROOT / "docs/tour.md").read_text("utf-8"))) - WORDS_OF_OTHERS
    leaves = {name: name.rsplit(".", maxsplit=1)[-1] for name in names if not name.startswith("styx")}
    defined = r"(?m)(\b(def|class|rpc|message) {0}\b|^-- name: {0}$|^{0}\b.* = )"
    assert [
        name for name, leaf in sorted(leaves.items()) if not re.search(defined.format(re.escape(leaf)), sources)
    ] == []
