"""One program of the stack as a process: started, killed, stopped and continued by name. Knows nothing of Styx."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from tests.support.until import soon

STOP_SECONDS = 60.0


class Program:
    """A command that is started again with the same words, and writes to the same file.

    Args:
        home: its working directory: Python finds packages there first.
    """

    def __init__(self, name: str, argv: Sequence[str], env: Mapping[str, str], *, home: Path, log: Path) -> None:
        self.name = name
        self._argv = list(argv)
        self._env = dict(env)
        self._home = home
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process that runs, or ran last."""
        assert self._process is not None, f"{self.name} has never been started"
        return self._process.pid

    @property
    def runs(self) -> bool:
        """Whether it is there; a stopped one is."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts it unless it runs."""
        if self.runs:
            return
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._argv,
                env=self._env,
                cwd=self._home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self) -> None:
        """SIGKILL, and it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def signal(self, number: int) -> None:
        """Sends a signal, if there is anybody to get it."""
        if self.runs:
            os.kill(self.pid, number)

    async def terminate(self) -> None:
        """SIGTERM, and waits for its end."""
        self.signal(signal.SIGTERM)
        await soon(lambda: not self.runs, f"{self.name} ends", seconds=STOP_SECONDS)

    def said(self) -> str:
        """The end of what it wrote."""
        return self._log.read_text("utf-8", errors="replace")[-4000:] if self._log.exists() else ""


def processes_with(text: str) -> dict[int, str]:
    """Processes whose command line holds a text: number and command line. Not this one, and no dead ones."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if text in line and ") Z " not in (entry / "stat").read_text():
                found[int(entry.name)] = line
    return found


async def end_all_with(text: str) -> None:
    """Kills every process whose command line holds a text, and those that appear meanwhile."""
    for _ in range(500):
        left = processes_with(text)
        if not left:
            return
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(0.02)
    raise AssertionError(f"these do not die: {processes_with(text)}")
