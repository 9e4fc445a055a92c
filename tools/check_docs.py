"""Checks the documents against the tree: links lead somewhere, named files exist, named `make` targets exist.

Part of `make check` and of tests/meta. Reads Markdown files and the Makefile; follows no link off this machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = ("styx", "styx_server", "styx_agent", "styx_cli")
SOURCES = ("protos", *_PACKAGES, "benchmarks", "tests", "tools", "docs", "deploy", "examples")

_LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")
_PATH = re.compile(rf"`((?:{'|'.join(SOURCES)})/[\w./-]+)`")
_MAKE = re.compile(r"\bmake ([a-z]+)\b")
_TARGET = re.compile(r"^([a-z]+):", re.MULTILINE)
_HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"^```(?:sh|bash|console)\n(.*?)^```|`([^`\n]+)`", re.MULTILINE | re.DOTALL)


def documents(root: Path = ROOT) -> list[Path]:
    """Every Markdown file of the project."""
    found = [
        *root.glob("*.md"),
        *root.glob("docs/**/*.md"),
        *root.glob("deploy/**/*.md"),
        *root.glob("examples/**/*.md"),
        *root.glob("benchmarks/**/*.md"),
    ]
    return sorted(path for path in found if "node_modules" not in path.parts)


def faults(document: Path, root: Path = ROOT) -> list[str]:
    """What is wrong with one document, a sentence for each fault."""
    text = document.read_text()
    name = document.relative_to(root)
    prose = _FENCE.sub("", text)
    wrong = [f"{name}: the link {link} leads nowhere" for link in _LINK.findall(prose) if not _leads(document, link)]
    wrong += [f"{name}: there is no {path}" for path in _PATH.findall(prose) if not (root / path).exists()]
    known = set(_TARGET.findall((root / "Makefile").read_text()))
    wrong += [f"{name}: there is no target `make {target}`" for target in _targets(text) if target not in known]
    return wrong


def main() -> None:
    """Ends with an error when a document is wrong."""
    checked = documents()
    wrong = [fault for document in checked for fault in faults(document)]
    if wrong:
        raise SystemExit("\n".join(wrong))
    print(f"documents: {len(checked)} checked")


def slug(heading: str) -> str:
    """The anchor that a heading gets."""
    plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def _leads(document: Path, link: str) -> bool:
    if re.match(r"[a-z]+:", link):
        return True
    path, _, anchor = link.partition("#")
    target = document if not path else document.parent / path
    if not target.exists():
        return False
    return not anchor or anchor in _anchors(target)


def _anchors(document: Path) -> set[str]:
    return {slug(heading) for heading in _HEADING.findall(_FENCE.sub("", document.read_text()))}


def _targets(text: str) -> Iterator[str]:
    for block, inline in _CODE.findall(text):
        yield from _MAKE.findall(block or inline)


if __name__ == "__main__":
    main()
