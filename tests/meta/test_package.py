"""The wheel: it has everything that an installed Styx needs, and nothing that it does not."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("protos", "tools", "styx", "styx_server", "styx_agent", "styx_cli")
FILES = ("pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """What is in a wheel built from a copy of the tree without generated files."""
    place = tmp_path_factory.mktemp("wheel")
    for folder in SOURCES:
        shutil.copytree(ROOT / folder, place / folder, ignore=shutil.ignore_patterns("__pycache__", "*_pb2*"))
    for file in FILES:
        shutil.copy(ROOT / file, place / file)
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel"]
    built = subprocess.run(build, cwd=place, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (wheel,) = (place / "dist").glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def test_the_generated_code_is_in_the_wheel(names: set[str]) -> None:
    assert {"styx/v1/styx_service_pb2.py", "styx/v1/styx_service_pb2_grpc.py", "styx/v1/tasks_pb2.pyi"} <= names
    assert "styx/agent/v1/agent_service_pb2_grpc.py" in names


def test_every_source_file_is_in_the_wheel(names: set[str]) -> None:
    packages = ("styx", "styx_server", "styx_agent", "styx_cli")
    files = {path.relative_to(ROOT) for package in packages for path in (ROOT / package).rglob("*") if path.is_file()}
    wanted = {str(path) for path in files if "__pycache__" not in path.parts}
    assert wanted - names == set()


def test_nothing_else_is_in_the_wheel(names: set[str]) -> None:
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"styx", "styx_server", "styx_agent", "styx_cli"}
