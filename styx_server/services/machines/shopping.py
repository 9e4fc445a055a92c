"""What can be rented at this moment: the price lists of all providers, held against what they refused lately."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import structlog

from styx_server.clock import Clock
from styx_server.core.machines.book import OfferBook
from styx_server.core.machines.market import OfferMarket
from styx_server.core.machines.offer import CatalogEntry, offers_of
from styx_server.providers.ports import Provider, ProviderError
from styx_server.services.machines.refusals import Refusals

_log = structlog.get_logger()

_FRESH_SECONDS: Final = 60.0


class Shopping:
    """Makes the market of each round."""

    def __init__(self, providers: Mapping[str, Provider], refusals: Refusals, clock: Clock) -> None:
        self._providers = providers
        self._refusals = refusals
        self._clock = clock
        self._lists: dict[str, Sequence[CatalogEntry]] = {}
        self._book = OfferBook()
        self._read_at = -_FRESH_SECONDS

    async def market(self) -> OfferMarket:
        """What can be rented now.

        Raises:
            Unavailable: the database is away.
        """
        now = self._clock.monotonic()
        if now - self._read_at >= _FRESH_SECONDS:
            for name, provider in self._providers.items():
                try:
                    self._lists[name] = await provider.offers()
                except ProviderError as error:
                    _log.warning("offers_not_read", provider=name, error=error.message)
            self._book = OfferBook(offers_of(entry for entries in self._lists.values() for entry in entries))
            self._read_at = now
        await self._refusals.read()
        return OfferMarket(self._book, self._refusals.blocks, self._clock.now())
