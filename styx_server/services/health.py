"""Whether this server can do its work, and if not, why."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from styx_server.core.errors import StyxError
from styx_server.store.database import Database


async def _nobody(_: bool) -> None:
    """Nobody wants to hear it."""


class Health:
    """Answers probes.

    Attributes:
        stopping: this server is going down.
        on_look: told at each look whether the server is ready, for services that answer from memory.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.stopping = False
        self.on_look: Callable[[bool], Awaitable[None]] = _nobody

    async def reasons(self) -> list[str]:
        """Why the server is not ready, as stable words with details; empty when it is."""
        reasons = ["stopping: this server is going down"] if self.stopping else []
        try:
            async with asyncio.timeout(3.0):
                row = await self._database.fetch_row("ping")
            if row is None or not row["writable"]:
                reasons.append("database_read_only: connect to the primary")
        except (StyxError, TimeoutError) as error:
            reasons.append(f"database_unavailable: {str(error) or 'no answer within 3 s'}")
        return reasons

    async def look(self) -> float | None:
        """One pass of a loop."""
        await self.on_look(not await self.reasons())
        return None
