"""One child process: started with its log, watched, started again after a fall, stopped within a deadline.

Knows nothing of servers and agents; `stack.py` does. Children lead their own process groups, so that Ctrl-C on the
terminal reaches only `styx up`, which then stops them in order.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from styx.errors import StyxError
from styx_cli import clock
from styx_cli.local.folder import tail
from styx_cli.sanitize import plain

_LARGEST_LOG = 10 * 1024 * 1024
_FIRST_WAIT = 0.5
_LONGEST_WAIT = 30.0
_STEADY_SECONDS = 60.0


class StartFailed(StyxError):
    """The stack could not be started."""

    reason = "START_FAILED"


class Child:
    """A program that is kept running.

    Attributes:
        name: for people, and for the log.
        argv: program and arguments; may be changed between two starts.
    """

    def __init__(self, name: str, argv: Sequence[str], *, log: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self.argv = list(argv)
        self.log = log
        self._env = dict(env)
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """Its process; None when it does not run."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if running and self._process else None

    async def start(self) -> None:
        """Starts it; its output goes to its log."""
        _rotate(self.log)
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._env,
                cwd="/",
                start_new_session=True,
            )

    async def ended(self) -> int:
        """Waits until it has ended; returns its exit code, negative for a signal."""
        return await self._process.wait() if self._process else 0

    async def keep_alive(self, on_fall: Callable[[Child, int, float], None]) -> None:
        """Starts it again whenever it ends, at once after a long life and ever more slowly after short ones.

        Args:
            on_fall: is told the exit code, and how many seconds until the next start.
        """
        wait = _FIRST_WAIT
        while True:
            began = clock.monotonic()
            code = await self.ended()
            wait = _FIRST_WAIT if clock.monotonic() - began > _STEADY_SECONDS else wait
            on_fall(self, code, wait)
            await clock.sleep(wait)
            wait = min(wait * 2, _LONGEST_WAIT)
            await self.start()

    async def stop(self, seconds: float) -> bool:
        """Asks it to end, and kills it when it has not within `seconds`. True when it ended by itself."""
        if self.pid is None:
            return True
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(seconds):
                await self.ended()
        except TimeoutError:
            self.signal(signal.SIGKILL)
            await self.ended()
            return False
        return True

    def signal(self, number: int) -> None:
        """Sends a signal to it, if it runs."""
        if self.pid is not None:
            os.kill(self.pid, number)


def how_it_ended(code: int) -> str:
    """An exit code of a child in words."""
    return f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"


def start_failed(child: Child, why: str) -> StartFailed:
    """What to tell about a child that did not come up, with its own last words."""
    lines = [f"the {child.name} {why}; the end of {child.log}:", *(f"  {plain(line)}" for line in tail(child.log))]
    return StartFailed("\n".join(lines), remedy="the log has the rest")


def _rotate(log: Path) -> None:
    """Keeps one old log when the present one is large."""
    if log.exists() and log.stat().st_size > _LARGEST_LOG:
        log.replace(log.with_suffix(".log.1"))
