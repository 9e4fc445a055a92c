"""What other servers changed, for the one that leads: read from the change feed.

Every visible change is taken in at once, and nothing can be skipped, however late it commits: reading starts each time
below the oldest transaction that still runs, so a change may come more than once and must do no harm then. What this
server itself changed is told to the scheduler directly, but for what was in flight when memory was made.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from styx_server.clock import Clock
from styx_server.store.database import Database, Row

_PERIOD_SECONDS: Final = 1.0
_LATE_SECONDS: Final = 0.01
_LATE_LOOKS: Final = 5
"""A change may be noted before it can be seen: look again soon."""
_PAGE: Final = 2000
_STALL_SECONDS: Final = 5.0
_STALL_SHARE: Final = 20.0
"""When a long transaction of somebody holds the start back, all behind it is read again only now and then."""
_LAST_SEQ: Final = 2**63 - 1


class Elsewhere:
    """One reader of the feed.

    Args:
        replica: number of this server.
    """

    def __init__(self, database: Database, clock: Clock, replica: int) -> None:
        self._database = database
        self._clock = clock
        self._replica = replica
        self._floor = 0
        self._high = (0, 0)
        self._own_before = 0
        self._next_at = 0.0
        self._all_at = 0.0
        self._looks = 0

    def noted(self) -> None:
        """Another server says that something changed."""
        self._looks = _LATE_LOOKS
        self._next_at = 0.0

    async def begin(self) -> None:
        """Starts from here: what is visible now is to be read after this call.

        Of this server's own changes those count that run now: an answer was lost, and nobody waits for them.
        """
        row = await self._database.fetch_row("feed_end")
        assert row is not None
        self._floor, self._own_before = int(row["txid"]) - 1, int(row["next_txid"])
        self._high = (self._floor, _LAST_SEQ)
        self._next_at = self._all_at = 0.0

    async def pages(self) -> AsyncIterator[list[Row]]:
        """Rows of `read_elsewhere` since the last time; none when it is too early to look again."""
        now = self._clock.monotonic()
        if now < self._next_at:
            return
        self._looks = max(0, self._looks - 1)
        self._next_at = now + (_LATE_SECONDS if self._looks else _PERIOD_SECONDS)
        row = await self._database.fetch_row("feed_end")
        assert row is not None
        everything = now >= self._all_at
        place, count = (self._floor, _LAST_SEQ) if everything else self._high, 0
        while page := await self._page(*place):
            yield page
            count += len(page)
            place = (int(page[-1]["txid"]), page[-1]["seq"])
            if len(page) < _PAGE:
                break
        if everything:
            self._floor = max(self._floor, int(row["txid"]) - 1)
            spent = self._clock.monotonic() - now
            self._all_at = 0.0 if count < _PAGE else now + max(_STALL_SECONDS, _STALL_SHARE * spent)
        self._high = max(self._high, place, (self._floor, _LAST_SEQ))

    @property
    def wait_seconds(self) -> float:
        """How long until it is worth looking again."""
        return max(0.0, self._next_at - self._clock.monotonic())

    async def _page(self, txid: int, seq: int) -> list[Row]:
        return await self._database.fetch(
            "read_elsewhere",
            txid=str(txid),
            seq=seq,
            replica=self._replica,
            own_before=str(self._own_before),
            count=_PAGE,
        )
