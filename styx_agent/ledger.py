"""What this agent holds, as the link knows it, and what it still owes the server.

Fed by the supervisor's messages (`hearing.py`) and by the server's orders and acks (`orders.py`); asked by the session
for reports and by the log pusher for positions. No I/O, no clock. An attempt leaves when its end is stored and its
output is complete. Next: `session.py` and `logs.py`, which talk; `codec.py`, which words it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from styx_agent.notices.notice import Notice
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

    def runs_since(self, boot_micros: int) -> bool:
        """Whether it runs, and has not for longer than that."""
        return self.state == "RUNNING" and self.started_micros is not None and self.started_micros > boot_micros

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

    Attributes:
        heeds_notices: the supervisor knows what a notice is.
        notice: this machine is being taken back.
    """

    def __init__(self, say: Callable[[Message], None]) -> None:
        self.say = say
        self._held: dict[int, Held] = {}
        self._dirty: dict[int, None] = {}
        self._spent: dict[int, None] = {}
        self.supervisor_id = ""
        self.supervisor_boot_id = ""
        self.isolation = ""
        self.cgroup = False
        self.queues = False
        self.heeds_notices = False
        self.notice: Notice | None = None
        self.capacity: Message | None = None
        self.on_news: Callable[[], None] = lambda: None
        self.on_growth: Callable[[Stream], None] = lambda _stream: None
        self.on_empty: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        return len(self._held)

    # Questions.

    def all(self) -> list[Held]:
        """Everything, also what is being killed because nobody wants it."""
        return list(self._held.values())

    def live_fences(self) -> list[int]:
        """Every attempt that has not ended, also those that are being killed."""
        return [fence for fence, held in self._held.items() if not held.ended]

    def get(self, fence: int) -> Held | None:
        """One attempt."""
        return self._held.get(fence)

    def is_new(self, fence: int) -> bool:
        """Whether it has never been held, as far as anybody remembers."""
        return fence not in self._held and fence not in self._spent

    def add(self, held: Held) -> Held:
        """Holds one more."""
        self._held[held.fence] = held
        return held

    def streams(self) -> list[Stream]:
        """Every stream that may have output to send."""
        return [stream for held in self._held.values() if not held.condemned for stream in held.streams.values()]

    @property
    def owes(self) -> bool:
        """Whether the server has not been told, or has not stored, something that it wants."""
        return any(
            not held.ended or not held.end_acked or not held.logs_complete
            for held in self._held.values()
            if not held.condemned
        )

    def take_news(self, limit: int, started_before: int | None = None) -> list[Held]:
        """Attempts about which the server should hear, at most that many, and marks them as told.

        Args:
            limit: how many at most.
            started_before: those that run, and have not since before this boot time, are left for later.
        """
        found: list[Held] = []
        for fence in list(self._dirty):
            if len(found) == limit:
                break
            held = self._held.get(fence)
            if held is not None and started_before is not None and held.runs_since(started_before):
                continue
            del self._dirty[fence]
            stored = held is not None and held.ended and held.end_acked
            if held is None or held.condemned or held.state == "ACCEPTED" or stored or held.told == held.news:
                continue
            held.told = held.news
            found.append(held)
        return found

    @property
    def has_news(self) -> bool:
        """Whether `take_news` may find something."""
        return bool(self._dirty)

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

    # What `hearing.py` and `orders.py` note.

    def note(self, fence: int) -> None:
        """There is something that the server should hear."""
        self._dirty[fence] = None
        self.on_news()

    def settle(self, held: Held) -> None:
        """Lets go of it if the server has everything."""
        if held.ended and held.end_acked and held.logs_complete:
            self.drop(held)

    def drop(self, held: Held) -> None:
        """Lets go of it."""
        self._held.pop(held.fence, None)
        self._dirty.pop(held.fence, None)
        self._spent[held.fence] = None
        while len(self._spent) > _REMEMBERED_FENCES:
            del self._spent[next(iter(self._spent))]
        self.say({"op": "forget", "fence": held.fence})
        self.on_news()
        if not self._held:
            self.on_empty()
