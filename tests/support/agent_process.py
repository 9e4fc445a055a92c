"""A real `styx-agent` process against a scripted server, and the ways in which tests end it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.scripted_server import JOIN_TOKEN
from tests.support.supervisor_driver import processes

_ROOT = Path(__file__).resolve().parents[2]


class AgentProcess:
    """One data directory; links come and go in it."""

    def __init__(
        self, data_dir: Path, *ports: int, flags: Sequence[str] = (), token: str = JOIN_TOKEN, root: Path = _ROOT
    ) -> None:
        self.data_dir = data_dir
        self._root = root
        urls = ",".join(f"grpc://127.0.0.1:{port}" for port in ports)
        self.flags = ["--server-url", urls, "--data-dir", str(data_dir), *flags]
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(data_dir), "STYX_JOIN_TOKEN": token}
        self.process: subprocess.Popen[bytes] | None = None
        self._log = data_dir.parent / "link.log"

    def start(self, terminal: str = "") -> None:
        """Starts the link; its log goes to a file, or to a terminal."""
        with Path(terminal or self._log).open("ab", buffering=0) as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "styx_agent", *self.flags],
                cwd=self._root,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stderr=log,
            )

    def kill(self) -> None:
        """SIGKILL to the link; the supervisor stays."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """Asks the link to end; gives its exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return await self.exit_code()

    async def exit_code(self) -> int:
        assert self.process is not None
        return await asyncio.to_thread(self.process.wait, 30)

    def log(self) -> str:
        return self._log.read_text()

    def supervisors(self) -> list[int]:
        return processes(f"--data-dir {self.data_dir}")

    async def close(self) -> None:
        """Ends whatever is there, tasks too."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            await self.exit_code()
        for pid in self.supervisors():
            os.kill(pid, signal.SIGTERM)
        for _ in range(500):
            if not self.supervisors():
                return
            await asyncio.sleep(0.02)
        raise AssertionError("the supervisor does not end")


def fifo_of(agent: AgentProcess) -> Path:
    """The one that an attempt of this agent has made in its working directory."""
    (fifo,) = agent.data_dir.glob("work/*/fifo")
    return fifo


def feed(fifo: Path, data: bytes) -> None:
    """Puts bytes into a fifo without waiting for a reader: one that is gone must fail the test, not stop it."""
    # Held open until this process ends, because bytes in a fifo that nobody holds are lost.
    os.write(os.open(fifo, os.O_RDWR | os.O_CLOEXEC), data)
