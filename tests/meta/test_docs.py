"""What the documents say is so: links lead somewhere, commands exist, every error is explained."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from styx.v1 import errors_pb2
from tools.check_docs import ROOT, documents, faults, slug

REASONS = [name for name in errors_pb2.ErrorReason.DESCRIPTOR.values_by_name if not name.endswith("_UNSPECIFIED")]


def commands(document: Path) -> list[str]:
    """What a document tells its reader to type: lines of its shell blocks."""
    blocks = re.findall(r"^```(?:sh|bash|console)\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL)
    lines = [line.removeprefix("$ ").strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("document", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_document_points_at_is_there(document: Path) -> None:
    assert faults(document) == []


def test_the_readme_begins_with_the_two_commands() -> None:
    assert [line.split("#")[0].strip() for line in commands(ROOT / "README.md")[:2]] == ["make demo", "make test"]


def test_every_reason_of_an_error_has_its_section() -> None:
    headings = re.findall(r"^#+ +`?([A-Z_]+)`?", (ROOT / "docs" / "errors.md").read_text(), re.MULTILINE)
    assert set(REASONS) - set(headings) == set()
    assert {heading for heading in headings if "_" in heading} - set(REASONS) == set()


def test_the_tour_exists_and_names_files() -> None:
    tour = (ROOT / "docs" / "tour.md").read_text()
    assert len(re.findall(r"\]\([^)]*\.(?:py|proto|sql)[^)]*\)|`[\w/]+\.(?:py|proto|sql)`", tour)) >= 10


def test_every_make_target_is_explained() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    explained = set(re.findall(r"^([a-z]+):.*## \S", makefile, re.MULTILINE))
    assert targets - explained == {"format", "generated"}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[a](missing.md)", "the link missing.md leads nowhere"),
        ("[a](#nowhere)", "the link #nowhere leads nowhere"),
        ("`styx_server/no_such_room.py`", "there is no styx_server/no_such_room.py"),
        ("`make tea`", "there is no target `make tea`"),
    ],
)
def test_a_fault_is_found(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "Makefile").write_text("test: ## Run\n")
    document = tmp_path / "README.md"
    document.write_text(f"# Title\n\n{text}\n")
    assert faults(document, tmp_path) == [f"README.md: {fault}"]


def test_a_good_document_has_no_fault(tmp_path: Path) -> None:
    (tmp_path / "Makefile").write_text("test: ## Run\n")
    document = tmp_path / "README.md"
    document.write_text(
        "# The Title\n\n[up](#the-title), [me](README.md#the-title), `make test`, [web](https://a.b/c)\n"
    )
    assert faults(document, tmp_path) == []


def test_anchors_are_made_as_readers_of_markdown_make_them() -> None:
    assert slug("Exit codes: `run` and `wait`") == "exit-codes-run-and-wait"
