"""A new machine as a folder: the boot script runs in it, with stand-ins for what would end or start a real one.

Programs are found in one folder of the machine's own, which has no `poweroff` but the stand-in: nothing that is tested
here can reach the power switch of the computer it runs on.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.supervisor_driver import processes
from tests.support.until import until

_TOOLS = ("sh", "cat", "chmod", "cut", "env", "mkdir", "mv", "rm", "setsid", "sleep", "stat", "tr")
_NOTE = '#!/bin/sh\necho "$(basename "$0") $*" >>"$STYX_BOOT_ROOT/calls"\n'
SYSTEMCTL = (
    _NOTE
    + 'case "$*" in "start --no-block styx-agent.service")\n'
    + '  setsid "$STYX_BOOT_ROOT/opt/styx/bin/styx-agent" --on-exit=keep >>"$STYX_BOOT_ROOT/agent.log" 2>&1 &\n'
    + "esac\n"
)


class Machine:
    """One folder, and what runs in it."""

    def __init__(self, root: Path, *, systemd: bool) -> None:
        self.root = root
        self.console = root / "console"
        self._programs = root / "programs"
        self._programs.mkdir()
        for tool in _TOOLS:
            found = shutil.which(tool)
            assert found is not None, tool
            (self._programs / tool).symlink_to(found)
        (self._programs / "basename").symlink_to(shutil.which("basename") or "")
        (self._programs / "python3").symlink_to(Path(sys.executable).resolve())
        for name, text in (("poweroff", _NOTE), ("shutdown", _NOTE), ("systemctl", SYSTEMCTL)):
            (self._programs / name).write_text(text)
            (self._programs / name).chmod(0o755)
        if systemd:
            (root / "run/systemd/system").mkdir(parents=True)
        self.environment = {"PATH": str(self._programs), "STYX_BOOT_ROOT": str(root)}

    @property
    def data(self) -> Path:
        """The agent's folder."""
        return self.root / "var/lib/styx-agent"

    @property
    def calls(self) -> list[str]:
        """What was asked of systemd, and of the power switch."""
        path = self.root / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def start(self, script: str) -> subprocess.Popen[bytes]:
        """Boots."""
        with self.console.open("ab") as console:
            return subprocess.Popen(
                ["sh", "-c", script],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                cwd="/",
                start_new_session=True,
            )

    def boot(self, script: str) -> None:
        """Boots, to the end of the script."""
        assert self.start(script).wait(120) == 0, self.console.read_text()

    def look(self) -> str:
        """One look of the dead-man, as its timer asks for; what it says."""
        words = [str(self.root / "opt/styx/bin/dead-man"), "poweroff"]
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, check=False, timeout=60)
        assert done.stderr == ""
        return done.stdout.strip()

    def pass_time(self, seconds: int) -> None:
        """Lets the dead-man believe that its last look was that much earlier."""
        self._rewrite(r"was_now=(\d+)", lambda now: f"was_now={int(now) - seconds}")

    def reboot(self) -> None:
        """Lets the dead-man believe that the machine was started anew."""
        self._rewrite(r"was_boot=(\S+)", lambda _: "was_boot=another")

    def touch(self, name: str, seconds: int) -> None:
        """As if the agent had written this file of its folder, that long after 1970."""
        (self.data / name).touch()
        os.utime(self.data / name, (seconds, seconds))

    def _rewrite(self, pattern: str, change: object) -> None:
        path = self.root / "run/styx/dead-man"
        assert callable(change)
        path.write_text(re.sub(pattern, lambda found: change(found[1]), path.read_text()))

    def close(self) -> None:
        """Ends whatever runs here."""
        until(lambda: not _ended(f"--data-dir={self.data}") and not _ended(f"--data-dir {self.data}"), "all has ended")


def _ended(words: str) -> list[int]:
    found = processes(words)
    for pid in found:
        with_luck = signal.SIGKILL if "=" in words else signal.SIGTERM
        try:
            os.kill(pid, with_luck)
        except ProcessLookupError:
            continue
    return found


@contextmanager
def new_machine(*, systemd: bool) -> Iterator[Machine]:
    """A machine for the length of a block; a short path, because a unix socket lies in it."""
    with tempfile.TemporaryDirectory(prefix="styx-m-") as folder:
        machine = Machine(Path(folder), systemd=systemd)
        try:
            yield machine
        finally:
            machine.close()
