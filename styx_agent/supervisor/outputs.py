"""The two streams of one attempt, from pipe to spool, taken together. Next: `attempt.py`, which owns one of these."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from styx_agent.supervisor.capture import Capture
from styx_agent.supervisor.reactor import Reactor
from styx_agent.supervisor.rules import StartOrder
from styx_agent.supervisor.spool import Spool

NAMES = ("stdout", "stderr")


class Outputs:
    """Standard output and standard error.

    Args:
        grown: called with the name of a stream that has news.
    """

    def __init__(self, order: StartOrder, directory: str, reactor: Reactor, grown: Callable[[str], None]) -> None:
        self.spools: dict[str, Spool] = {}
        self._captures: dict[str, Capture] = {}
        for name in NAMES:
            self.spools[name] = Spool(directory, name, order.spool_bytes)
            self._captures[name] = Capture(
                reactor,
                self.spools[name],
                drop=order.drop_when_full,
                grown=lambda name=name: grown(name),  # type: ignore[misc]
            )

    @property
    def write_ends(self) -> tuple[int, int]:
        """What a new process gets as its descriptors 1 and 2."""
        return self._captures["stdout"].write_end, self._captures["stderr"].write_end

    def begin(self) -> None:
        """Reads from now on."""
        for capture in self._captures.values():
            capture.begin()

    def leave_to_the_command(self) -> None:
        """Closes our copies of the writing ends; from then on the end of a stream can be seen."""
        for capture in self._captures.values():
            capture.close_write_end()

    def free(self, name: str, below: int) -> None:
        """The server has everything below."""
        if name in self.spools:
            self.spools[name].free(below)
        if name in self._captures:
            self._captures[name].freed()

    def finish(self, done: Callable[[], None]) -> None:
        """Takes what is left in the pipes and closes them, one after the other; calls `done`, perhaps later."""
        if not self._captures:
            done()
            return
        _, capture = self._captures.popitem()
        capture.drain(lambda: self.finish(done))

    def logs(self) -> list[dict[str, Any]]:
        """What there is to say at the end; a stream without a byte is not mentioned."""
        return [spool.summary() for spool in self.spools.values() if spool.end]

    def positions(self) -> list[dict[str, Any]]:
        """Where the streams stand that got any byte."""
        return [spool.position() for spool in self.spools.values() if spool.end]
