"""The rooms: each says what it is, exports what it says, and cannot reach what it must not."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.check_generated import import_all, stale
from tools.gen_protos import ROOT, generate

PACKAGES = ("styx", "styx_server", "styx_agent", "styx_cli")


def modules() -> Iterator[str]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if not parts[-1].endswith(("_pb2", "_pb2_grpc")):
                yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("name", [name for name in modules() if not name.endswith("__main__")])
def test_a_module_imports_says_what_it_is_and_exports_what_exists(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__
    assert module.__doc__.strip()
    assert [public for public in getattr(module, "__all__", []) if not hasattr(module, public)] == []


def test_no_room_is_called_by_an_empty_name() -> None:
    empty = {"util", "utils", "common", "helpers", "helper", "manager", "misc"}
    assert [name for name in modules() if set(name.split(".")) & empty] == []


def test_the_walls_between_the_rooms_hold() -> None:
    linter = Path(sys.executable).parent / "lint-imports"
    outcome = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stdout


@pytest.mark.parametrize(
    ("module", "strangers"),
    [
        ("styx", {"styx_server", "styx_agent", "styx_cli", "asyncpg", "rich", "starlette"}),
        ("styx_cli", {"styx_server", "styx_agent", "asyncpg", "rich", "grpc", "starlette"}),
        ("styx_agent.supervisor", {"styx", "grpc", "google", "structlog", "asyncpg"}),
        ("styx_server.core", {"grpc", "google", "asyncpg", "structlog", "asyncio"}),
        ("styx_server.providers.fake", {"grpc", "google", "asyncpg", "boto3", "kubernetes_asyncio"}),
        ("styx_server.providers.processes.keeper", {"grpc", "asyncpg", "structlog", "asyncio", "subprocess"}),
    ],
)
def test_a_room_loads_without_strangers(module: str, strangers: set[str]) -> None:
    program = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert set(loaded.stdout.split()) & strangers == set()


def test_the_supervisor_takes_nothing_of_styx_but_its_failpoints() -> None:
    program = "import sys, styx_agent.supervisor.main; print(*sys.modules)"
    isolated = f"import sys; sys.path.insert(0, {str(ROOT)!r}); {program}"
    loaded = subprocess.run([sys.executable, "-I", "-S", "-c", isolated], capture_output=True, text=True, check=True)
    names = {name for name in loaded.stdout.split() if not name.startswith("styx_agent")}
    assert {name for name in names if name.split(".")[0] == "styx"} == {"styx", "styx.failpoints"}
    assert {name.split(".")[0] for name in names} - sys.stdlib_module_names == {"styx", "__main__"}


def test_the_generated_code_is_what_the_protos_say_and_stands_alone(tmp_path: Path) -> None:
    for package in ("styx", "styx/v1", "styx/agent", "styx/agent/v1"):
        (tmp_path / package).mkdir(exist_ok=True)
        (tmp_path / package / "__init__.py").touch()
    generate(tmp_path)
    import_all(tmp_path)
    assert stale(tmp_path, ROOT) == []


def test_stale_generated_code_is_found(tmp_path: Path) -> None:
    (tmp_path / "fresh").mkdir()
    (tmp_path / "fresh" / "a_pb2.py").write_text("new")
    (tmp_path / "tree").mkdir()
    assert stale(tmp_path / "fresh", tmp_path / "tree") == ["a_pb2.py"]
    (tmp_path / "tree" / "a_pb2.py").write_text("new")
    assert stale(tmp_path / "fresh", tmp_path / "tree") == []
