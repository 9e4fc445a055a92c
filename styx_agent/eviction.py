"""What the agent does when its machine is taken back: stops what runs at once, and tells servers for as long as it can.

It waits for nobody's order. A server that cannot be reached is no reason to sit still until the machine is gone. Next:
`notices/`, which hears of it; `supervisor/eviction.py`, which gives what runs all the time there is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from styx_agent import clock
from styx_agent.ledger import Ledger
from styx_agent.notices.notice import Notice, notice_in
from styx_agent.notices.setting import NoticeSetting
from styx_agent.notices.watching import Watch

log = structlog.get_logger(__name__)

_LOOK_EVERY_SECONDS = 0.02
_LAST_MICROS = 500_000
"""So long before the machine ends the agent says Goodbye, whatever it still has."""


class Eviction:
    """The end of this machine, if it is known.

    Args:
        setting: who says so; None: nobody.
        ledger: what runs here; it remembers the notice.
    """

    def __init__(self, setting: NoticeSetting | None, ledger: Ledger) -> None:
        self._setting = setting
        self._ledger = ledger
        source = None if setting is None else setting.source()
        self._watch = None if source is None else Watch(source, self.take)
        self._over: asyncio.TimerHandle | None = None
        self._kill_micros = 0
        self.on_change: Callable[[bool], None] = lambda _leaves: None

    def start(self, on_change: Callable[[bool], None]) -> None:
        """Begins to listen.

        Args:
            on_change: told whether the machine goes.
        """
        self.on_change = on_change
        if self._watch is not None:
            self._watch.start()

    def stop(self) -> None:
        """Listens no more."""
        if self._watch is not None:
            self._watch.stop()

    def on_signal(self) -> None:
        """This process is told to end; where a signal is the notice, the machine ends with it."""
        if self._setting is not None and self._setting.kind == "term" and self._ledger.notice is None:
            self.take(notice_in(self._setting.seconds, "term", clock.boottime_micros()))

    def take(self, notice: Notice) -> None:
        """The machine goes. A second notice counts when it is for an earlier time."""
        known = self._ledger.notice
        if known is not None and known.deadline_micros <= notice.deadline_micros:
            return
        now = clock.boottime_micros()
        live = len(self._ledger.live_fences())
        left = round(notice.left_micros(now) / 1e6, 1)
        log.warning("preemption_noticed", source=notice.source, left_seconds=left, attempts=live)
        self._ledger.notice, self._kill_micros = notice, notice.kill_micros(now)
        self.tell_supervisor()
        self.on_change(True)
        if self._over is not None:
            self._over.cancel()
        seconds = max(0.0, (notice.over_micros - now) / 1e6)
        self._over = asyncio.get_running_loop().call_later(seconds, self._survive)

    def tell_supervisor(self) -> None:
        """Has everything stopped; again whenever the supervisor was away."""
        if (notice := self._ledger.notice) is None:
            return
        if self._ledger.heeds_notices:
            self._ledger.say({"op": "notice", "kill_micros": self._kill_micros, "over_micros": notice.over_micros})
        else:  # a supervisor of an earlier version: it knows no longer grace than that of the task
            grace = max(0, self._kill_micros - clock.boottime_micros())
            self._ledger.say({"op": "stop_all", "cause": "PREEMPT", "grace_micros": grace})

    async def last_look(self) -> None:
        """Before the process ends: a machine that shuts down may have told its agent before it told anybody else."""
        if self._watch is not None and self._ledger.notice is None and (notice := await self._watch.ask()):
            self.take(notice)

    async def see_off(self, connected: Callable[[], bool], hurry: asyncio.Event) -> None:
        """Waits until all has ended and is told, or there is no time left.

        Args:
            connected: whether a session is open.
            hurry: set when somebody does not want to wait.
        """
        while (notice := self._ledger.notice) is not None and self._is_waiting(connected()):
            if clock.boottime_micros() >= notice.deadline_micros - _LAST_MICROS:
                return
            if await clock.wait_for_event(hurry, _LOOK_EVERY_SECONDS):
                self._ledger.say({"op": "stop_all", "cause": "PREEMPT", "grace_micros": 0})
                hurry.clear()

    def _is_waiting(self, connected: bool) -> bool:
        return bool(self._ledger.live_fences()) or (connected and self._ledger.owes)

    def _survive(self) -> None:
        log.warning("preemption_did_not_come")
        self._ledger.notice = None
        self.on_change(False)
