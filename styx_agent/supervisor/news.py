"""States that the link has not heard of yet; only the latest of each attempt counts.

That a command runs is not said at once: most that end soon end before it is said, and then one message, one report and
one commit of the server do for both. Next: `warden.py`, which notes and tells.
"""

from __future__ import annotations

from styx_agent.supervisor.reactor import Reactor, Timer
from styx_agent.supervisor.wire import Message

_YOUNG_MICROS = 20_000
"""Long enough for `/bin/true` on a busy machine, and nothing against the start window, under which an attempt lives
until its start is known."""


class News:
    """What is to be told."""

    def __init__(self) -> None:
        self._changed: dict[int, Message] = {}
        self._young: dict[int, Timer] = {}

    def note(self, message: Message, reactor: Reactor) -> None:
        """An attempt has a new state."""
        fence = message["fence"]
        self.forget(fence)
        self._changed[fence] = message
        if message["state"] == "RUNNING":
            self._young[fence] = reactor.call_after(_YOUNG_MICROS, lambda: self._grow_up(fence))

    def forget(self, fence: int) -> None:
        """Nobody needs to hear of it."""
        self._changed.pop(fence, None)
        if timer := self._young.pop(fence, None):
            timer.cancel()

    def take(self) -> list[Message]:
        """What is to be told now."""
        ready = [fence for fence in self._changed if fence not in self._young]
        return [self._changed.pop(fence) for fence in ready]

    def _grow_up(self, fence: int) -> None:
        del self._young[fence]  # the round that ends now tells it
