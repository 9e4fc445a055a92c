"""What other servers changed, for the one that leads: read from the change feed, in the order of commits.

No change can be skipped, however late it commits. What this server itself changed is told to the scheduler directly.
"""

from __future__ import annotations

from typing import Final

from styx_server.clock import Clock
from styx_server.store.database import Database, Row

_PERIOD_SECONDS: Final = 1.0
_LATE_SECONDS: Final = 0.01
_LATE_LOOKS: Final = 5
"""A change may be committed and still lie behind a transaction that runs: look again soon after a note."""
_PAGE: Final = 2000
_LAST_SEQ: Final = 2**63 - 1


class Elsewhere:
    """One reader of the feed.

    Args:
        replica: number of this server, whose own changes are passed over.
    """

    def __init__(self, database: Database, clock: Clock, replica: int) -> None:
        self._database = database
        self._clock = clock
        self._replica = replica
        self._place = 0
        self._next_at = 0.0
        self._looks = 0

    def noted(self) -> None:
        """Another server says that something changed."""
        self._looks = _LATE_LOOKS
        self._next_at = 0.0

    async def begin(self) -> None:
        """Starts from here: what is visible now is to be read after this call."""
        self._place = await self._end()
        self._next_at = 0.0

    async def read(self) -> list[Row]:
        """Rows of `read_elsewhere` since the last time; none when it is too early to look again."""
        now = self._clock.monotonic()
        if now < self._next_at:
            return []
        end = await self._end()
        rows: list[Row] = []
        txid, seq = self._place, _LAST_SEQ
        while page := await self._page(txid, seq, end):
            rows.extend(page)
            txid, seq = int(page[-1]["txid"]), page[-1]["seq"]
            if len(page) < _PAGE:
                break
        self._place = end
        self._looks = max(0, self._looks - 1)
        self._next_at = now + (_LATE_SECONDS if self._looks else _PERIOD_SECONDS)
        return rows

    @property
    def wait_seconds(self) -> float:
        """How long until it is worth looking again."""
        return max(0.0, self._next_at - self._clock.monotonic())

    async def _page(self, txid: int, seq: int, end: int) -> list[Row]:
        return await self._database.fetch(
            "read_elsewhere", txid=str(txid), seq=seq, before=str(end + 1), replica=self._replica, count=_PAGE
        )

    async def _end(self) -> int:
        """The last transaction before the oldest one that still runs."""
        row = await self._database.fetch_row("feed_end")
        assert row is not None
        return int(row["txid"]) - 1
