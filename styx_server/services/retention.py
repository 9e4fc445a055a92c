"""Drops events, output, request ids and refusals that are old, in a loop. What must stay: `store/retention.py`."""

from __future__ import annotations

import structlog

from styx_server.clock import Clock
from styx_server.store.database import Database
from styx_server.store.retention import drop_expired, forget_refused, forget_requests

_log = structlog.get_logger()


class Retention:
    """Keeps what has to be kept, and no more.

    Attributes:
        days: how long events and output are kept at least; 0: for ever.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self.days = 0

    async def once(self) -> float | None:
        """One pass."""
        if self.days:
            for name in await drop_expired(self._database, self._clock.now(), days=self.days):
                _log.info("partition_dropped", partition=name)
        more = [await forget_requests(self._database), await forget_refused(self._database)]
        return 0.0 if any(more) else None
