"""A whole Styx as a user starts it: `styx up` as a process, everything else through the shipped commands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.programs import Finished
from tests.support.until import until

BIN = Path(sys.executable).parent
LONG_SECONDS = 240.0


class Stack:
    """One data folder and what runs in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "HOME": str(folder.parent),
            "LANG": "C.UTF-8",
            "STYX_DATA_DIR": str(folder),
        }

    def styx(self, *words: str, stdin: bytes = b"", **env: str) -> Finished:
        """Runs a command to its end."""
        done = subprocess.run(
            [str(BIN / "styx"), *words],
            input=stdin,
            env=self.env | env,
            capture_output=True,
            timeout=LONG_SECONDS,
            check=False,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    def good(self, *words: str, stdin: bytes = b"") -> str:
        """The answer of a command that must succeed."""
        done = self.styx(*words, stdin=stdin)
        assert done.code == 0, done.talk
        return done.text.strip()

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        """Starts a command, with its answer in a pipe."""
        return subprocess.Popen(
            [str(BIN / "styx"), *words], env=self.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
        )

    def endpoint(self) -> dict[str, Any]:
        """What the server wrote about itself."""
        found: dict[str, Any] = json.loads((self.folder / "endpoint.json").read_text())
        return found

    def task(self, task_id: str) -> dict[str, Any]:
        """A task as proto JSON."""
        found: dict[str, Any] = json.loads(self.good("status", task_id, "-o", "json"))
        return found

    def submit(self, *words: str) -> str:
        """Submits; returns the id."""
        return self.good("submit", *words)

    def until_state(self, task_id: str, *states: str) -> dict[str, Any]:
        """The task, once it is in one of these states."""
        until(lambda: self.task(task_id)["state"] in states, f"{task_id} is {states}", seconds=LONG_SECONDS)
        return self.task(task_id)

    def processes(self, word: str = "") -> dict[int, str]:
        """Command lines of processes that name this folder, or `word`."""
        found = {}
        for entry in Path("/proc").iterdir():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode() if entry.name.isdigit() else ""
                dead = entry.name.isdigit() and ") Z " in (entry / "stat").read_text()
            except OSError:
                continue
            if (word or str(self.folder)) in line and not dead and int(entry.name) != os.getpid():
                found[int(entry.name)] = line
        return found

    def pid_of(self, module: str) -> int:
        """The process that runs one of our programs in this folder."""
        (pid,) = [pid for pid, line in self.processes().items() if f"-m {module} " in line]
        return pid

    def kill(self, module: str) -> None:
        """`kill -9` of one of our programs; `styx up` starts it again."""
        old = self.pid_of(module)
        os.kill(old, signal.SIGKILL)
        until(lambda: old not in self.processes(), f"{module} is gone")


@contextmanager
def running_stack(folder: Path, *words: str, env: Mapping[str, str] | None = None) -> Iterator[Stack]:
    """`styx up` in the background for the length of a block; afterwards nothing of it may be left."""
    stack = Stack(folder)
    stack.env |= env or {}
    stack.good("up", "--detach", "--grpc-port", "0", "--http-port", "0", *words)
    try:
        yield stack
    finally:
        stack.styx("down")
        left = stack.processes()
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert not left, left


def memory_of(pid: int) -> int:
    """Resident bytes of a process."""
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
