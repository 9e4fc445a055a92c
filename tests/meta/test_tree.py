"""What is kept under version control: no path of a machine, no host of a package index, nothing generated."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Folders that are named in documents and tests for good reasons, whatever lies below them here.
_COMMON = {Path(place) for place in ("/", "/tmp", "/home", "/srv", "/opt", "/root", "/src", "/var/tmp", "/usr/src")}
_INDEX = re.compile(
    r"(index-url|find-links|registry)\s*[=:]\s*[\"']?(https?|file)://|"
    r"//(files\.pythonhosted\.org|pypi\.org/simple|registry\.(npmjs|yarnpkg)\.\w+)|\"resolved\"\s*:",
    re.IGNORECASE,
)


def tracked() -> list[Path]:
    """Files under version control, and those that would be with the next commit."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("this is not a clone, so nothing says what is tracked")
    names = listed.stdout.decode().split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def texts() -> list[tuple[str, str]]:
    me = Path(__file__)
    return [(str(path.relative_to(ROOT)), path.read_text(errors="replace")) for path in tracked() if path != me]


def test_no_file_names_a_place_of_this_machine() -> None:
    places = [f"{place}/" for place in (ROOT, ROOT.parent) if place not in _COMMON]
    assert [(name, place) for name, text in texts() for place in places if place in text] == []


def test_no_file_names_a_package_index() -> None:
    assert [(name, found[0]) for name, text in texts() if (found := _INDEX.search(text))] == []


def test_nothing_generated_is_tracked() -> None:
    generated = re.compile(r"_pb2(_grpc)?\.pyi?$|__pycache__|node_modules|\.egg-info|\.pyc$")
    assert [str(path) for path in tracked() if generated.search(str(path))] == []


def test_no_tracked_file_is_large() -> None:
    assert [str(path) for path in tracked() if path.stat().st_size > 512 * 1024] == []


def test_scripts_can_be_run() -> None:
    scripts = [path for path in tracked() if path.suffix == ".sh" or path == ROOT / ".ci" / "run"]
    assert [path for path in scripts if not path.stat().st_mode & 0o100] == []
    for script in scripts:
        assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
