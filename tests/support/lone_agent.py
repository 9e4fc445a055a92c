"""A `styx-agent` that joins a running stack by itself, so that a test can break it, its disk or its machine."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

from tests.support.stack import BIN, Stack
from tests.support.supervisor_driver import processes
from tests.support.until import until


class LoneAgent:
    """One agent and its supervisor, with a label that only its own tasks ask for.

    Args:
        folder: an empty folder of its own; outside of the stack's.
        setting: shell words to say before it starts, in a mount namespace of its own; needs root.
    """

    def __init__(self, stack: Stack, folder: Path, *, setting: str = "") -> None:
        self.label = folder.name
        self.data_dir = folder / "agent"
        self.data_dir.mkdir(mode=0o700, parents=True)
        self.log_file = folder / "agent.log"
        self.setting = setting
        self.link: subprocess.Popen[bytes] | None = None
        self._env = stack.env | {
            "STYX_SERVER_URL": stack.endpoint()["http"],
            "STYX_JOIN_TOKEN": stack.good("agent", "join", "--token-only"),
            "STYX_LOG_FORMAT": "json",
            "AGENT_DIR": str(self.data_dir),
        }

    def start(self) -> None:
        """Starts the link."""
        words = [str(BIN / "styx-agent"), "--data-dir", str(self.data_dir), "--label", f"only={self.label}"]
        if self.setting:
            script = f'{self.setting}; exec "$@"'
            words = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script, "sh", *words]
        with self.log_file.open("ab") as log:
            self.link = subprocess.Popen(words, env=self._env, stdin=subprocess.DEVNULL, stderr=log)

    def kill_link(self) -> None:
        """`kill -9`."""
        assert self.link is not None
        self.link.kill()
        self.link.wait()

    def supervisor(self) -> int:
        """Process number of the supervisor."""
        (pid,) = [pid for pid in self.processes() if "supervisor.main" in _command(pid)]
        return pid

    def processes(self) -> list[int]:
        """Everything of this agent but the tasks."""
        return processes(str(self.data_dir))

    def sessions(self) -> int:
        """How many sessions its links have had."""
        return self.log_file.read_text().count('"session_opened"')

    def power_off(self) -> None:
        """Ends all of it at once, as a machine does."""
        if self.link is not None and self.link.poll() is None:
            self.kill_link()
        # The guardian kills the tasks when the supervisor is gone, then itself.
        for pid in self.processes():
            if "supervisor.main" in _command(pid):
                os.kill(pid, signal.SIGKILL)
        until(lambda: not self.processes(), "nothing of the agent is left")


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""
