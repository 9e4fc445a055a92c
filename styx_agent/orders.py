"""What the server orders and acks, written into the ledger and passed on to the supervisor.

Every order may come twice. Next: `session.py` and `logs.py`, which receive them.
"""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from styx_agent.ledger import Held, Ledger, Stream
from styx_agent.supervisor.wire import Message

log = structlog.get_logger(__name__)


class ServerOrders:
    """Carries out what the server says."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def extend_lease(self, sent_micros: int, window_micros: int) -> None:
        """A beat sent at that time is stored."""
        self._ledger.say({"op": "extend", "sent_micros": sent_micros, "window_micros": window_micros})

    def assign(self, order: Message, *, may_start: bool) -> None:
        """A new attempt; one that is known already is left alone."""
        fence = order["fence"]
        if not self._ledger.is_new(fence):
            if self._ledger.get(fence) is None:
                self._end_again(order)
            return
        held = Held(fence=fence, task_id=order["task_id"], attempt=order["attempt"], state="ACCEPTED", order=order)
        self._ledger.add(held)
        if may_start:
            self._ledger.say(order)
            return
        held.order = None
        held.state = "ENDED"
        held.outcome = {"kind": "REJECTED", "message": "the last contact with the server was too long ago"}
        self._ledger.note(fence)

    def _end_again(self, order: Message) -> None:
        """An order for what is over here and forgotten: it is never run twice, and the server must not wait for it."""
        held = Held(fence=order["fence"], task_id=order["task_id"], attempt=order["attempt"], state="ENDED")
        held.outcome = {"kind": "SUPERVISOR_LOST", "message": "this agent had it before and gave it up"}
        self._ledger.add(held)
        self._ledger.note(held.fence)

    def stop(self, fence: int, cause: str, grace_micros: int | None) -> None:
        """The server wants an end."""
        held = self._ledger.get(fence)
        if held is not None and not held.ended:
            self._ledger.say({"op": "stop", "fence": fence, "cause": cause, "grace_micros": grace_micros})

    def start_recorded(self, fences: Iterable[int]) -> None:
        """The server has stored that these have started."""
        new = [held for fence in fences if (held := self._ledger.get(fence)) and not held.start_acked]
        for held in new:
            held.start_acked = True
        if new:
            self._ledger.say({"op": "recorded", "fences": [held.fence for held in new]})

    def end_stored(self, fence: int) -> None:
        """The server has stored how this ended."""
        if held := self._ledger.get(fence):
            held.end_acked = True
            self._ledger.settle(held)

    def stored(self, fence: int, name: str, durable: int) -> None:
        """The server has stored output."""
        held = self._ledger.get(fence)
        if held is None:
            return
        stream = held.streams.get(name)
        if stream is None:
            if not durable:
                return
            stream = held.streams[name] = Stream(fence=fence, name=name)
        if durable > stream.durable:
            stream.durable = durable
            stream.sent = max(stream.sent, durable)
            stream.forget_marks()
            self._ledger.say({"op": "free", "fence": fence, "stream": name, "below": durable})
            self._ledger.settle(held)

    def condemn(self, fence: int) -> None:
        """The server wants nothing of this: kill it if it lives, and forget it."""
        held = self._ledger.get(fence)
        if held is None:
            self._ledger.say({"op": "forget", "fence": fence})
            return
        held.condemned = True
        if held.ended:
            self._ledger.drop(held)
        else:
            self._ledger.say({"op": "forget", "fence": fence})

    def disown(self, fences: Iterable[int]) -> None:
        """The server says that these are not this agent's (any more)."""
        for fence in fences:
            log.warning("attempt_disowned", fence=fence)
            self.condemn(fence)
