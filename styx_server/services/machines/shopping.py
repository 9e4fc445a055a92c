"""What can be rented now: the catalog, held against what was refused lately. And keeps the catalog fresh."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Final

import structlog

from styx_server.clock import Clock
from styx_server.core.machines.failover import Blocks
from styx_server.core.machines.market import OfferMarket
from styx_server.providers.ports import Provider
from styx_server.services.catalog import Catalog, Source
from styx_server.services.machines.refusals import Refusals

_log = structlog.get_logger()

PERIOD_SECONDS: Final = 30.0
_LIVE: Final = frozenset({"local", "fake", "kubernetes"})
"""Those whose offers come and go with what is free there, and are had at once."""
_LIVE_SECONDS: Final = 60.0
_FRESH: Final = timedelta(hours=12)
"""Clouds change prices of spot machines about as often, and asking all regions takes minutes."""
_AGAIN: Final = timedelta(hours=1)
"""After a refresh that failed."""


class Shopping:
    """Makes the market of each round, and asks for prices when they are old. The second is for the leader only."""

    def __init__(self, providers: Mapping[str, Provider], catalog: Catalog, refusals: Refusals, clock: Clock) -> None:
        self._providers = providers
        self._catalog = catalog
        self._refusals = refusals
        self._clock = clock
        self._asked: dict[str, float] = {}

    async def market(self) -> OfferMarket:
        """What can be rented now.

        Raises:
            Unavailable: the database is away.
        """
        await self._refusals.read()
        # Blocks of its own: it is asked in a thread, while refusals come in.
        return OfferMarket(await self._catalog.book(), Blocks(self._refusals.blocks), self._clock.now())

    async def refresh(self) -> float | None:
        """Asks those providers whose prices are old.

        Raises:
            Unavailable: the database is away.
        """
        await self._catalog.plant()
        sources = {source.provider: source for source in await self._catalog.sources()}
        for name, provider in self._providers.items():
            if not self._is_due(name, sources.get(name)):
                continue
            self._asked[name] = self._clock.monotonic()
            replaced = await self._catalog.refresh(provider, force=name in _LIVE)
            if replaced.error:
                _log.warning("offers_not_read", provider=name, error=replaced.error)
        return None

    def _is_due(self, name: str, source: Source | None) -> bool:
        asked = self._asked.get(name)
        waited = float("inf") if asked is None else self._clock.monotonic() - asked
        if name in _LIVE:
            return waited >= _LIVE_SECONDS
        if waited < _AGAIN.total_seconds():
            return False
        # What somebody imported is meant to stay.
        if source is None or source.source == "seed":
            return True
        return source.source == "provider" and self._clock.now() - source.fetch_time >= _FRESH
