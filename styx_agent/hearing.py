"""What the supervisor says, written into the ledger. Next: `supervisor_client.py`, which hears it."""

from __future__ import annotations

from styx import failpoints
from styx_agent.ledger import Held, Ledger, Stream
from styx_agent.supervisor.wire import Message

_MAX_MARKS = 8192


class Hearing:
    """Takes the supervisor's messages."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def take(self, message: Message) -> None:
        """Takes any message of it."""
        match message["op"]:
            case "welcome":
                self._on_welcome(message)
            case "changed":
                self._on_changed(message["attempt"])
            case "grown":
                if held := self._ledger.get(message["fence"]):
                    self._on_position(held, message, more=True)

    def _on_welcome(self, message: Message) -> None:
        self._ledger.supervisor_id = message["supervisor_id"]
        self._ledger.supervisor_boot_id = message["boot_id"]
        self._ledger.isolation = message["isolation"]
        self._ledger.cgroup = message["cgroup"]
        self._ledger.queues = message.get("queue", False)
        self._ledger.heeds_notices = message.get("notice", False)
        if self._ledger.queues and self._ledger.capacity is not None:
            self._ledger.say(self._ledger.capacity)  # before any order, so that none starts without room
        known = set()
        for attempt in message["attempts"]:
            known.add(attempt["fence"])
            self._on_changed(attempt)
        for held in self._ledger.all():
            fence = held.fence
            if fence not in known and held.order is not None:
                self._ledger.say(held.order)
            elif fence not in known and not held.ended:
                self._end_without_trace(held)
            elif held.start_acked:
                self._ledger.say({"op": "recorded", "fences": [fence]})
            if held.condemned:
                self._ledger.say({"op": "forget", "fence": fence})

    def _on_changed(self, message: Message) -> None:
        fence = message["fence"]
        if message["state"] == "ENDED":
            failpoints.hit("link.end.heard")
        held = self._ledger.get(fence)
        if held is None:
            held = self._ledger.add(
                Held(fence=fence, task_id=message["task_id"], attempt=message["attempt"], state=message["state"])
            )
            held.start_acked = message["recorded"]
        held.order = None
        held.state = message["state"]
        held.started_micros = message["started_micros"]
        held.ended_micros = message["ended_micros"]
        held.outcome = message["outcome"]
        held.logs = message["logs"]
        for position in message.get("streams", ()):
            self._on_position(held, position)
        if held.ended and held.condemned:
            self._ledger.drop(held)
            return
        for stream in held.streams.values() if held.ended else ():
            self._ledger.on_growth(stream)
        self._ledger.note(fence)
        self._ledger.settle(held)

    def _on_position(self, held: Held, position: Message, *, more: bool = False) -> None:
        name = position["stream"]
        stream = held.streams.get(name)
        if stream is None:
            freed = position.get("freed", 0)
            stream = held.streams[name] = Stream(fence=held.fence, name=name, sent=freed, durable=freed)
        stream.end = max(stream.end, position["end"])
        stream.gaps = [(start, end, reason) for start, end, reason in position["gaps"]]
        if not more:
            stream.marks.clear()
        stream.marks.extend((offset, micros) for offset, micros in position["marks"])
        if len(stream.marks) > _MAX_MARKS:
            # While nobody takes output, times grow coarser instead of more.
            del stream.marks[1::2]
        if stream.unsent and not held.condemned:
            self._ledger.on_growth(stream)

    def _end_without_trace(self, held: Held) -> None:
        """The supervisor has no memory of it. What its journal does not hold has never run, or lost its disk."""
        held.state = "ENDED"
        held.outcome = {"kind": "SUPERVISOR_LOST", "message": "the agent's records of it are gone"}
        self._ledger.note(held.fence)
