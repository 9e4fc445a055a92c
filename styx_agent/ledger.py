"""What this agent holds, as the link knows it, and what it still owes the server.

Fed by the supervisor's messages and by the server's acks; asked by the session for reports and by the log pusher for
positions. No I/O, no clock. An attempt leaves when its end is stored and its output is complete. Next: `session.py`
and `logs.py`, which talk; `codec.py`, which words it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from styx_agent.supervisor.wire import Message

_REMEMBERED_FENCES = 20_000


@dataclass(slots=True, kw_only=True)
class Stream:
    """One stream of output of one attempt: `durable <= sent <= end`.

    Attributes:
        end: bytes that the command has written, as far as the link knows.
        sent: where the next chunk starts.
        durable: everything below is stored by the server.
        waiting_since: boot time at which the oldest unsent byte was noticed; None: nothing is unsent.
    """

    fence: int
    name: str
    end: int = 0
    sent: int = 0
    durable: int = 0
    gaps: list[tuple[int, int, str]] = field(default_factory=list)
    marks: list[tuple[int, int]] = field(default_factory=list)
    waiting_since: int | None = None

    @property
    def unsent(self) -> int:
        """Bytes that have not been sent since the last rewind."""
        return self.end - self.sent

    def forget_marks(self) -> None:
        """Drops the time marks of what is stored; the last one below still holds above."""
        first = next((at for at, mark in enumerate(self.marks) if mark[0] > self.durable), len(self.marks))
        del self.marks[: max(0, first - 1)]


@dataclass(slots=True, kw_only=True)
class Held:
    """One attempt.

    Attributes:
        order: what the supervisor was told, until it has answered.
        told: state and start that the server was told in this session.
        condemned: the server wants nothing of it any more.
    """

    fence: int
    task_id: int
    attempt: int
    state: str
    started_micros: int | None = None
    ended_micros: int | None = None
    outcome: dict[str, Any] | None = None
    logs: list[dict[str, Any]] = field(default_factory=list)
    start_acked: bool = False
    end_acked: bool = False
    order: Message | None = None
    told: tuple[str, bool] | None = None
    condemned: bool = False
    streams: dict[str, Stream] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self.state == "ENDED"

    @property
    def news(self) -> tuple[str, bool]:
        """What the server should know by now."""
        return self.state, self.started_micros is not None

    @property
    def logs_complete(self) -> bool:
        """Whether the server has every byte there will ever be."""
        return all(log["stream"] in self.streams and self._durable(log) for log in self.logs)

    def _durable(self, log: dict[str, Any]) -> bool:
        return self.streams[log["stream"]].durable >= int(log["total"])


class Ledger:
    """Every attempt that is held.

    Args:
        say: tells the supervisor.
    """

    def __init__(self, say: Callable[[Message], None]) -> None:
        self._say = say
        self._held: dict[int, Held] = {}
        self._dirty: dict[int, None] = {}
        self._spent: dict[int, None] = {}
        self.supervisor_id = ""
        self.supervisor_boot_id = ""
        self.isolation = ""
        self.cgroup = False
        self.on_news: Callable[[], None] = lambda: None
        self.on_growth: Callable[[Stream], None] = lambda _stream: None

    def __len__(self) -> int:
        return len(self._held)

    # Questions.

    def all(self) -> list[Held]:
        """Everything, also what is being killed because nobody wants it."""
        return list(self._held.values())

    def wanted(self) -> list[Held]:
        """Everything, except what nobody wants any more."""
        return [held for held in self._held.values() if not held.condemned]

    def live_fences(self) -> list[int]:
        """Every attempt that has not ended, also those that are being killed."""
        return [fence for fence, held in self._held.items() if not held.ended]

    def get(self, fence: int) -> Held | None:
        """One attempt."""
        return self._held.get(fence)

    def streams(self) -> list[Stream]:
        """Every stream that may have output to send."""
        return [stream for held in self.wanted() for stream in held.streams.values()]

    @property
    def owes(self) -> bool:
        """Whether the server has not been told, or has not stored, something that it wants."""
        return any(not held.ended or not held.end_acked or not held.logs_complete for held in self.wanted())

    def take_news(self, limit: int) -> list[Held]:
        """Attempts about which the server should hear, at most that many, and marks them as told."""
        found: list[Held] = []
        while self._dirty and len(found) < limit:
            fence = next(iter(self._dirty))
            del self._dirty[fence]
            held = self._held.get(fence)
            if held is None or held.condemned or held.state == "ACCEPTED" or held.told == held.news:
                continue
            held.told = held.news
            found.append(held)
        return found

    @property
    def has_news(self) -> bool:
        """Whether `take_news` may find something."""
        return bool(self._dirty)

    # What the supervisor says.

    def on_supervisor(self, message: Message) -> None:
        """Takes any message of it."""
        match message["op"]:
            case "welcome":
                self._on_welcome(message)
            case "changed":
                self._on_changed(message["attempt"])
            case "grown":
                if held := self._held.get(message["fence"]):
                    self._on_position(held, message, more=True)

    def _on_welcome(self, message: Message) -> None:
        self.supervisor_id = message["supervisor_id"]
        self.supervisor_boot_id = message["boot_id"]
        self.isolation = message["isolation"]
        self.cgroup = message["cgroup"]
        known = set()
        for attempt in message["attempts"]:
            known.add(attempt["fence"])
            self._on_changed(attempt)
        for fence, held in list(self._held.items()):
            if fence not in known and held.order is not None:
                self._say(held.order)
            elif fence not in known and not held.ended:
                self._end_without_trace(held)
            elif held.start_acked:
                self._say({"op": "recorded", "fences": [fence]})
            if held.condemned:
                self._say({"op": "forget", "fence": fence})

    def _on_changed(self, message: Message) -> None:
        fence = message["fence"]
        held = self._held.get(fence)
        if held is None:
            held = self._held[fence] = Held(
                fence=fence, task_id=message["task_id"], attempt=message["attempt"], state=message["state"]
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
            self._drop(held)
            return
        for stream in held.streams.values() if held.ended else ():
            self.on_growth(stream)
        self._note(fence)
        self._settle(held)

    def _on_position(self, held: Held, position: Message, *, more: bool = False) -> None:
        name = position["stream"]
        stream = held.streams.get(name)
        if stream is None:
            freed = position.get("freed", 0)
            stream = held.streams[name] = Stream(fence=held.fence, name=name, sent=freed, durable=freed)
        stream.end = max(stream.end, position["end"])
        stream.gaps = [(start, end, reason) for start, end, reason in position["gaps"]]
        marks = [(offset, micros) for offset, micros in position["marks"]]
        stream.marks = stream.marks + marks if more else marks
        if stream.unsent and not held.condemned:
            self.on_growth(stream)

    def _end_without_trace(self, held: Held) -> None:
        """The supervisor has no memory of it. What its journal does not hold has never run, or lost its disk."""
        held.state = "ENDED"
        held.outcome = {"kind": "SUPERVISOR_LOST", "message": "the agent's records of it are gone"}
        self._note(held.fence)

    # What the server says.

    def extend_lease(self, sent_micros: int, window_micros: int) -> None:
        """A beat sent at that time is stored."""
        self._say({"op": "extend", "sent_micros": sent_micros, "window_micros": window_micros})

    def assign(self, order: Message, *, may_start: bool) -> None:
        """A new attempt; one that is known already is left alone."""
        fence = order["fence"]
        if fence in self._held or fence in self._spent:
            return
        held = Held(fence=fence, task_id=order["task_id"], attempt=order["attempt"], state="ACCEPTED", order=order)
        self._held[fence] = held
        if may_start:
            self._say(order)
            return
        held.order = None
        held.state = "ENDED"
        held.outcome = {"kind": "REJECTED", "message": "the last contact with the server was too long ago"}
        self._note(fence)

    def stop(self, fence: int, cause: str, grace_micros: int | None) -> None:
        """The server wants an end."""
        held = self._held.get(fence)
        if held is not None and not held.ended:
            self._say({"op": "stop", "fence": fence, "cause": cause, "grace_micros": grace_micros})

    def start_recorded(self, fences: Iterable[int]) -> None:
        """The server has stored that these have started."""
        new = [fence for fence in fences if (held := self._held.get(fence)) and not held.start_acked]
        for fence in new:
            self._held[fence].start_acked = True
        if new:
            self._say({"op": "recorded", "fences": new})

    def end_stored(self, fence: int) -> None:
        """The server has stored how this ended."""
        if held := self._held.get(fence):
            held.end_acked = True
            self._settle(held)

    def stored(self, fence: int, name: str, durable: int) -> None:
        """The server has stored output."""
        held = self._held.get(fence)
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
            self._say({"op": "free", "fence": fence, "stream": name, "below": durable})
            self._settle(held)

    def condemn(self, fence: int) -> None:
        """The server wants nothing of this: kill it if it lives, and forget it."""
        held = self._held.get(fence)
        if held is None:
            self._say({"op": "forget", "fence": fence})
            return
        held.condemned = True
        if held.ended:
            self._drop(held)
        else:
            self._say({"op": "forget", "fence": fence})

    def new_session(self) -> None:
        """Nothing has been told yet; output goes on from what is stored."""
        self._dirty.clear()
        for held in self._held.values():
            held.told = None
            if not (held.end_acked if held.ended else held.start_acked and held.state == "RUNNING"):
                self._dirty[held.fence] = None
            for stream in held.streams.values():
                stream.sent = stream.durable
                stream.waiting_since = None

    # Housekeeping.

    def _note(self, fence: int) -> None:
        self._dirty[fence] = None
        self.on_news()

    def _settle(self, held: Held) -> None:
        if held.ended and held.end_acked and held.logs_complete:
            self._drop(held)

    def _drop(self, held: Held) -> None:
        self._held.pop(held.fence, None)
        self._dirty.pop(held.fence, None)
        self._spent[held.fence] = None
        while len(self._spent) > _REMEMBERED_FENCES:
            del self._spent[next(iter(self._spent))]
        self._say({"op": "forget", "fence": held.fence})
        self.on_news()
