"""A client that is not ours: the Node example, made of the .proto files alone, against a real Styx."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tools.leftovers import leftovers

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "node-client"
BIN = Path(sys.executable).parent
Run = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or shutil.which("npm") is None, reason="there is no Node here (node and npm)"
)


def environment(**extra: str) -> dict[str, str]:
    """The caller's, without its Styx."""
    return {name: value for name, value in os.environ.items() if not name.startswith("STYX_")} | extra


@pytest.fixture(scope="module")
def libraries() -> None:
    """Installs what the example needs, once for each lock file; the folder is not tracked."""
    lock = (EXAMPLE / "package-lock.json").read_bytes()
    stamp = EXAMPLE / "node_modules" / ".styx-lock"
    digest = hashlib.sha256(lock).hexdigest()
    if stamp.exists() and stamp.read_text() == digest:
        return
    with tempfile.TemporaryDirectory() as cache:
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--cache", cache]
        installed = subprocess.run(command, cwd=EXAMPLE, capture_output=True, text=True, check=False, env=environment())
    assert installed.returncode == 0, installed.stderr
    stamp.write_text(digest)


@pytest.fixture(scope="module")
def running() -> Iterator[Path]:
    """The data folder of a whole Styx."""
    with tempfile.TemporaryDirectory(prefix="styx-test-") as folder:
        styx = [str(BIN / "styx"), "--data-dir", folder]
        start = [*styx, "up", "--detach", "--grpc-port", "0", "--http-port", "0"]
        started = subprocess.run(start, capture_output=True, text=True, check=False, env=environment())
        try:
            assert started.returncode == 0, started.stderr
            yield Path(folder)
        finally:
            subprocess.run([*styx, "down"], capture_output=True, check=False, env=environment())
        assert leftovers(Path(folder)) == {}


@pytest.fixture
def node(libraries: None, running: Path) -> Run:
    del libraries
    endpoint = json.loads((running / "endpoint.json").read_text())
    token = (running / "admin.token").read_text().strip()

    def run(command: str, **extra: str) -> subprocess.CompletedProcess[str]:
        given = {"STYX_SERVER_URL": endpoint["http"], "STYX_TOKEN": token} | extra
        return subprocess.run(
            ["node", "client.mjs", command],
            cwd=EXAMPLE,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=environment(**given),
        )

    return run


def test_a_node_program_submits_a_task_watches_it_and_reads_its_output(node: Run) -> None:
    ended = node("for i in 1 2 3; do echo line $i; sleep 0.2; done; echo trouble >&2; exit 7")
    assert ended.stdout == "line 1\nline 2\nline 3\n"
    assert "trouble\n" in ended.stderr
    assert ended.stderr.splitlines()[-1].endswith(" is FAILED")
    assert ended.returncode == 7


def test_a_task_that_succeeds_ends_the_node_program_well(node: Run) -> None:
    ended = node("echo ünïcödé; printf end")
    assert (ended.stdout, ended.returncode) == ("ünïcödé\nend", 0)


def test_a_wrong_token_is_refused_in_words(node: Run) -> None:
    ended = node("true", STYX_TOKEN="styx_admin_1_wrong")
    assert ended.returncode == 125
    assert ended.stderr.startswith("error: ")
    assert "token" in ended.stderr


def test_an_empty_command_is_refused_in_words(node: Run) -> None:
    ended = node("")
    assert ended.returncode == 125
    assert ended.stderr.startswith("error: ")
