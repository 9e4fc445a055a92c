"""Asks a source again and again, in a thread of its own, until it says that the machine goes.

A thread, because a question may wait for a minute and must neither hold the event loop nor the end of the process.
Next: `sources.py`, which are asked.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import structlog

from styx_agent import clock
from styx_agent.notices.metadata import MetadataError
from styx_agent.notices.notice import SECOND, Notice
from styx_agent.notices.sources import Source

log = structlog.get_logger(__name__)

_RETRY_SECONDS = 2.0


class Watch:
    """Tells of notices, from `start` to the end of the process.

    Args:
        source: who is asked.
        tell: called on the event loop with each notice; not again before that one is over.
    """

    def __init__(self, source: Source, tell: Callable[[Notice], None]) -> None:
        self._source = source
        self._tell = tell
        self._ended = threading.Event()
        self._answers = True

    def start(self) -> None:
        """Begins. The loop that runs now is the one that is told."""
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._run, args=(loop,), name="styx-notices", daemon=True).start()

    def stop(self) -> None:
        """Tells nothing any more. The thread ends when its question is answered; nobody waits for it."""
        self._ended.set()

    async def ask(self) -> Notice | None:
        """Asks now, once."""
        return await asyncio.to_thread(self._look, waits=False)

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        pause = 0.0
        while not self._ended.wait(pause):
            notice = self._look(waits=True)
            pause = self._source.pause_seconds if self._answers else _RETRY_SECONDS
            if notice is None or self._ended.is_set():
                continue
            try:
                loop.call_soon_threadsafe(self._tell, notice)
            except RuntimeError:  # the loop was closed meanwhile
                return
            pause = max(0.0, (notice.over_micros - clock.boottime_micros()) / SECOND)

    def _look(self, *, waits: bool) -> Notice | None:
        try:
            notice = self._source.look(waits=waits)
        except MetadataError as error:
            if self._answers:  # once, not every two seconds
                log.warning("preemption_notice_unheard", error=str(error), retry_seconds=_RETRY_SECONDS)
            self._answers = False
            return None
        self._answers = True
        return notice
