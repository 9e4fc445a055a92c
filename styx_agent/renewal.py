"""Replaces a supervisor that another version of the agent has started, once it holds nothing.

A supervisor is the parent of its tasks, so it cannot be replaced under them; until it holds nothing, a link and a
supervisor of different versions work together (`supervisor/wire.py`).

Next: `supervisor_client.py`, which starts the new one.
"""

from __future__ import annotations

import structlog

from styx_agent.ledger import Ledger
from styx_agent.supervisor import program
from styx_agent.supervisor.wire import Message

log = structlog.get_logger(__name__)


class Renewal:
    """Looks when a supervisor says welcome, and when the last attempt has been forgotten."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._installed = program.digest()
        self._running = self._installed
        # Once in the life of a link: what it starts itself is what is installed, even if that changes meanwhile.
        self._done = False
        ledger.on_empty = self._look

    def on_welcome(self, message: Message) -> None:
        """A supervisor says which program it is; those of early versions do not."""
        self._running = message.get("program", "")
        self._look()

    def _look(self) -> None:
        if self._done or self._running == self._installed or len(self._ledger):
            return
        self._done = True
        log.info("supervisor_renewed", running=self._running, installed=self._installed)
        # It ends when nothing lives under it: an order that crosses with this one is carried out first.
        self._ledger.say({"op": "shutdown", "stop_tasks": False})
