"""Holds every attempt of this agent: takes the link's orders, reaps, records, and tells the link.

The one place that knows journal, attempts and link at once. Each round of the reactor ends in `after_round`: what has
to be durable is made durable in one go, then the processes that wait for it are started and the news is sent.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from styx import failpoints
from styx_agent.supervisor import clock, rules
from styx_agent.supervisor.attempt import Attempt, Surroundings
from styx_agent.supervisor.children import Children
from styx_agent.supervisor.eviction import Eviction
from styx_agent.supervisor.journal import Journal
from styx_agent.supervisor.leases import LeaseKeeper
from styx_agent.supervisor.news import News
from styx_agent.supervisor.reactor import Reactor
from styx_agent.supervisor.room import Room
from styx_agent.supervisor.trash import Trash
from styx_agent.supervisor.wire import Message

_STARTS_PER_ROUND = 8
_REMEMBERED_FENCES = 20_000
_RETRY_MICROS = 200_000


class Warden:
    """Every attempt that is running or remembered.

    Args:
        send: gives messages to the link, if there is one.

    Attributes:
        around: what its attempts need; given by `main.py`, because it points back here.
    """

    around: Surroundings

    def __init__(
        self,
        directory: str,
        *,
        journal: Journal,
        trash: Trash,
        children: Children,
        leases: LeaseKeeper,
        send: Callable[[list[Message]], None],
    ) -> None:
        self._directory = directory
        self._children = children
        self._leases = leases
        self._journal = journal
        self._trash = trash
        self._send = send
        self._live: dict[int, Attempt] = {}
        self._ended: dict[int, Message] = {}
        self._spent: dict[int, None] = {}
        self._condemned: set[int] = set()
        self._room = Room()
        self._eviction = Eviction()
        self._to_start: list[Attempt] = []
        self._news = News()
        self._grown: dict[tuple[int, str], int] = {}

    # What `main.py` and `recovery.py` tell it.

    def adopt_ended(self, message: Message) -> None:
        """An exit record of an earlier time."""
        self._ended[message["fence"]] = message

    @property
    def live_count(self) -> int:
        """Attempts that have not ended."""
        return len(self._live)

    def attempts(self) -> list[Message]:
        """Everything that is held, with its streams."""
        live = [{**attempt.to_message(), "streams": _positions(attempt)} for attempt in self._live.values()]
        return live + list(self._ended.values())

    # Orders of the link, by name. All may come twice.

    def order(self, message: Message) -> None:
        """Does what the link says; an order that this version does not know is ignored."""
        match message["op"]:
            case "start":
                self._start(rules.StartOrder.from_message(message))
            case "stop" if attempt := self._live.get(message["fence"]):
                cause, grace, now = message["cause"], message.get("grace_micros"), clock.boottime_micros()
                attempt.stop(cause, self._eviction.grace_of(cause, grace, now))
            case "extend":
                self._extend(message["sent_micros"], message["window_micros"])
            case "recorded":
                self._record(message["fences"])
            case "free":
                self._free(message["fence"], message["stream"], message["below"])
            case "forget":
                self._forget(message["fence"])
            case "capacity":
                self._room.resize(rules.Need(cpus_milli=message["cpus_milli"], memory_bytes=message["memory_bytes"]))
            case "notice":
                self._eviction.announce(message["kill_micros"], message["over_micros"])
                for attempt in list(self._live.values()):
                    self._evict(attempt)
            case "stop_all":
                for attempt in list(self._live.values()):
                    attempt.stop(message["cause"], min(attempt.order.grace_micros, message["grace_micros"]))

    def _start(self, order: rules.StartOrder) -> None:
        fence = order.fence
        if fence in self._live or fence in self._ended or fence in self._spent:
            return
        failpoints.hit("supervisor.order.received")
        attempt = Attempt(order, f"{self._directory}/attempts/{fence}", self.around)
        self._live[fence] = attempt
        self._room.enter(attempt)
        self._evict(attempt)

    def _evict(self, attempt: Attempt) -> None:
        now = clock.boottime_micros()
        if self._eviction.holds(now):
            attempt.stop("PREEMPT", self._eviction.grace(now))

    def _extend(self, sent_micros: int, window_micros: int) -> None:
        if self._leases.extend(sent_micros, window_micros):
            for attempt in self._live.values():
                attempt.look_again()

    def _record(self, fences: list[int]) -> None:
        failpoints.hit("supervisor.start.recorded")
        for fence in fences:
            if attempt := self._live.get(fence):
                attempt.record()
            elif ended := self._ended.get(fence):
                ended["recorded"] = True

    def _free(self, fence: int, stream: str, below: int) -> None:
        if attempt := self._live.get(fence):
            if attempt.outputs is not None:
                attempt.outputs.free(stream, below)
            return
        for position in self._ended.get(fence, {}).get("streams", []):
            if position["stream"] == stream:
                position["freed"] = max(position["freed"], below)

    def _forget(self, fence: int) -> None:
        if attempt := self._live.get(fence):
            self._condemned.add(fence)
            attempt.stop("CANCEL", 0)
            return
        if self._ended.pop(fence, None) is None:
            return
        failpoints.hit("supervisor.forget.received")
        self._news.forget(fence)
        self._journal.forget(fence)
        self._trash.throw_away(f"{self._directory}/attempts/{fence}")
        self._spent[fence] = None
        while len(self._spent) > _REMEMBERED_FENCES:
            del self._spent[next(iter(self._spent))]
        failpoints.hit("supervisor.forget.done")

    # What its attempts tell it.

    def on_changed(self, attempt: Attempt) -> None:
        """An attempt has a new state."""
        fence = attempt.order.fence
        message = attempt.to_message()
        if attempt.state == "ENDED":
            self._live.pop(fence, None)
            self._room.leave(fence)
            message["ended_real"] = clock.realtime_micros()
            message["streams"] = _positions(attempt)
            self._ended[fence] = message
            if fence in self._journal.starts:  # else it never got room
                self._journal.end(fence, {name: message[name] for name in _KEPT})
        self._news.note(message, self.around.reactor)

    def on_grown(self, attempt: Attempt, stream: str) -> None:
        """A stream has news; only the latest counts."""
        self._grown.setdefault((attempt.order.fence, stream), 0)

    # Rounds.

    def after_round(self) -> bool:
        """Makes durable, starts, tells. Whether more is to be started at once."""
        self._children.new_round()
        for attempt in self._room.admit(self.around.reactor):
            self._journal.start(attempt.order.fence, attempt.order.to_message())
            self._to_start.append(attempt)
        if not self._journal.commit():
            # Nothing may start, and no end be heard of, before it is on disk.
            _try_again_soon(self.around.reactor)
            return False
        if self._to_start:
            failpoints.hit("supervisor.order.journaled")
        batch, self._to_start = self._to_start[:_STARTS_PER_ROUND], self._to_start[_STARTS_PER_ROUND:]
        for attempt in batch:
            if self._leases.may_start():
                attempt.begin()
            else:
                attempt.stop("LATE", 0)
        if self._journal.commit():  # ends of what could not be started
            self._tell()
        else:
            _try_again_soon(self.around.reactor)
        for fence in [fence for fence in self._condemned if fence not in self._live]:
            self._condemned.discard(fence)
            self._forget(fence)
        return bool(self._to_start)

    def _tell(self) -> None:
        # What has ended says all of its streams with its end.
        messages = [_growth(self._live[fence], stream) for fence, stream in self._grown if fence in self._live]
        self._grown.clear()
        changed = self._news.take()
        messages += [{"op": "changed", "attempt": message} for message in changed]
        for message in changed:
            failpoints.hit("supervisor.exit.journaled" if message["state"] == "ENDED" else "supervisor.start.noticed")
        if messages:
            self._send(messages)
        for message in changed:
            failpoints.hit("supervisor.exit.told" if message["state"] == "ENDED" else "supervisor.start.told")


def _try_again_soon(reactor: Reactor) -> None:
    reactor.call_after(_RETRY_MICROS, lambda: None)  # a round is all it takes


def _positions(attempt: Attempt) -> list[Message]:
    return [] if attempt.outputs is None else attempt.outputs.positions()


def _growth(attempt: Attempt, stream: str) -> Message:
    news = {} if attempt.outputs is None else attempt.outputs.spools[stream].news()
    return {"op": "grown", "fence": attempt.order.fence, **news}


# What an end record holds.
_KEPT = ("started_micros", "ended_micros", "ended_real", "outcome", "logs", "recorded")


def watch_signals(reactor: Reactor, on_child: Callable[[int], None], on_stop: Callable[[], None]) -> None:
    """Turns SIGCHLD, SIGTERM and SIGINT into calls from the reactor."""
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)

    def on_wakeup(events: int) -> None:
        numbers = os.read(reading, 4096)
        if signal.SIGTERM in numbers or signal.SIGINT in numbers:
            on_stop()
        on_child(events)

    reactor.watch(reading, 1, on_wakeup)
