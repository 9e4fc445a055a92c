"""What there is to rent and what it costs: kept in the database, replaced one provider at a time, read from memory.

Prices come from the seed in this package until a provider was asked, or a file was imported. Who plans asks for the
`book`, which is built anew only when the stored version has changed. Fetches nothing by an address: files are bytes.
Next: `catalog_csv.py`, the files; `core/machines/choose.py`, which picks from the book.
"""

from __future__ import annotations

import asyncio
import fnmatch
import re
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import chain, islice
from types import MappingProxyType
from typing import Final

import structlog

from styx_server.clock import Clock
from styx_server.core.gpu_names import is_meant
from styx_server.core.machines.book import OfferBook
from styx_server.core.machines.needs import MachineNeeds
from styx_server.core.machines.offer import CatalogEntry, Offer, offers_of
from styx_server.providers import seed
from styx_server.providers.ports import Provider, ProviderError
from styx_server.services.catalog_csv import read_csv
from styx_server.services.catalog_pages import cursor_of, offers_from, position_of
from styx_server.services.tasks import Mutation, claim
from styx_server.store.catalog_rows import CATALOG_COLUMNS, CatalogKey, catalog_entry, catalog_key, catalog_record
from styx_server.store.database import Database, Row, Transaction

_PART: Final = 1_000
"""Rows that are read or written at once: more would hold the event loop for too long."""
_FEW_ENTRIES: Final = 50
_LEAST_SHARE: Final = 0.5
_FIRST: Final[CatalogKey] = ("", "", "", "", -1)

_Version = tuple[int, datetime]

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where what is known of a provider comes from.

    Attributes:
        source: `seed`, `provider` or `import`.
        entries: how many types and places.
        fetch_time: when somebody last looked at the prices.
    """

    provider: str
    source: str
    version: int
    entries: int
    fetch_time: datetime
    replace_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Replaced:
    """What came of replacing what is known of a provider.

    Attributes:
        entries: how many types and places are known now.
        error: why nothing was replaced, for people; empty: it was.
        skipped: of a file, how many rows were left out, by reason.
    """

    provider: str
    entries: int
    error: str = ""
    skipped: Mapping[str, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedOffer:
    """An offer with the time at which somebody last looked at its price."""

    offer: Offer
    fetch_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferPage:
    """Some offers, cheapest first. `after`: where the next page starts; empty: there is none."""

    offers: tuple[ListedOffer, ...]
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuModel:
    """One model of accelerator, as many as are in one machine.

    Attributes:
        offers: how many offers have them.
        cheapest: on demand.
    """

    name: str
    count: int
    memory_bytes: int
    offers: int
    cheapest: ListedOffer | None
    cheapest_spot: ListedOffer | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shelf:
    """What is in memory, and of which versions it was made.

    Attributes:
        parts: the offers of each provider, with the version that they are of.
    """

    book: OfferBook
    sources: tuple[Source, ...]
    parts: Mapping[str, tuple[_Version, Sequence[Offer]]]


class Catalog:
    """What there is to rent.

    Args:
        regions: for each provider that is configured, where machines may be rented; none: wherever it has offers.
        machine_types: for some of them, which types may be rented, with `*` for anything, also of the seed; none: all.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        regions: Mapping[str, Collection[str]],
        machine_types: Mapping[str, Collection[str]] = MappingProxyType({}),
    ) -> None:
        self._database = database
        self._clock = clock
        self._regions = regions
        self._machine_types = {
            name: re.compile("|".join(map(fnmatch.translate, patterns)))
            for name, patterns in machine_types.items()
            if patterns
        }
        self._shelf = _Shelf(book=OfferBook(), sources=(), parts={})
        self._reading = asyncio.Lock()

    async def plant(self) -> None:
        """Stores the seed for configured providers of which nothing is known. Several servers may do it at once."""
        known = {source.provider for source in await self.sources()}
        for provider in self._regions:
            if provider not in known and provider in seed.PROVIDERS:
                entries = seed.entries(provider)
                async with self._database.transaction() as transaction:
                    values = _source_values(provider, "seed", entries)
                    planted = await transaction.fetch("insert_catalog_source", **values)
                    if planted:
                        await _copy(transaction, entries)
                if planted:
                    _log.info("catalog_replaced", provider=provider, source="seed", entries=len(entries))

    async def sources(self) -> list[Source]:
        """Where what is known comes from, also of providers that are not configured any more."""
        return [_source(row) for row in await self._database.fetch("list_catalog_sources")]

    async def refresh(self, provider: Provider, mutation: Mutation | None = None, *, force: bool = False) -> Replaced:
        """Asks a provider what it rents out, and replaces what was known; keeps that when the answer is no good.

        Args:
            provider: whom to ask. It may take minutes.
            mutation: whose request this is; a repeated one replaces nothing.
            force: take also an answer with suspiciously few entries.

        Raises:
            Conflict: the request id was used for something else.
        """
        known = await self._known(provider.name)
        try:
            entries = await provider.offers()
        except ProviderError as error:
            return _kept(provider.name, known, error.message, error.code)
        fault = _fault_of(provider.name, entries, None if force else known)
        if fault:
            return _kept(provider.name, known, fault)
        if mutation is None and known is not None and await self._holds_still(known, entries):
            return Replaced(provider=provider.name, entries=known.entries)
        return await self._replace(provider.name, "provider", entries, mutation)

    async def import_csv(self, provider: str, data: bytes, mutation: Mutation | None = None) -> Replaced:
        """Replaces what is known of a provider with a file in the format of SkyPilot, plain or packed with gzip.

        Raises:
            InvalidRequest: the file is no good; the message names the lines.
            Conflict: the request id was used for something else.
        """
        found = await asyncio.to_thread(read_csv, provider, data, self._clock.now())
        replaced = await self._replace(provider, "import", found.entries, mutation)
        return Replaced(provider=provider, entries=replaced.entries, skipped=found.skipped)

    async def book(self) -> OfferBook:
        """All offers of configured providers, in their regions. From memory, unless something was replaced."""
        return (await self._read()).book

    async def page(self, wanted: MachineNeeds, after: str, count: int) -> OfferPage:
        """Up to `count` offers that meet `wanted`, by price, whatever is blocked.

        Args:
            wanted: as for renting; `PREFER` lists both uses.
            after: of the last page; empty: from the start.
            count: at least 1.

        Raises:
            InvalidRequest: `after` is of no page.
        """
        shelf = await self._read()
        start = position_of(after, shelf.book) if after else 0
        offers = await asyncio.to_thread(offers_from, wanted, shelf.book, start, count + 1)
        return OfferPage(
            offers=tuple(_listed(offer, shelf) for offer in offers[:count]),
            after=cursor_of(offers[count - 1]) if len(offers) > count else "",
        )

    async def gpus(self, name: str = "") -> list[GpuModel]:
        """Models of accelerators by name and number; those that `name` means, or all."""
        shelf = await self._read()
        found: dict[tuple[str, int, int], list[int]] = {}
        for model in shelf.book.models:
            size = model.size
            if size.gpu_count and is_meant(size.gpu_name, name):
                key = (size.gpu_name, size.gpu_count, size.gpu_memory_bytes)
                found.setdefault(key, []).extend(model.positions)
        offers = shelf.book.offers
        return [_gpu_model(key, [offers[index] for index in sorted(at)], shelf) for key, at in sorted(found.items())]

    async def _known(self, provider: str) -> Source | None:
        return next((source for source in await self.sources() if source.provider == provider), None)

    async def _replace(
        self, provider: str, source: str, entries: Sequence[CatalogEntry], mutation: Mutation | None
    ) -> Replaced:
        unique = await asyncio.to_thread(_unique, entries)
        async with self._database.transaction() as transaction:
            if mutation is None or await claim(transaction, mutation):
                await transaction.execute("upsert_catalog_source", **_source_values(provider, source, unique))
                await transaction.execute("delete_catalog_entries", provider=provider)
                await _copy(transaction, unique)
        _log.info("catalog_replaced", provider=provider, source=source, entries=len(unique))
        return Replaced(provider=provider, entries=len(unique))

    async def _holds_still(self, known: Source, entries: Sequence[CatalogEntry]) -> bool:
        """Whether an answer of a provider says what it said before; stores only when it was given then."""
        if known.source != "provider":
            return False
        stored = [entry async for part in self._stored(known.provider) for entry in part]
        if not await asyncio.to_thread(lambda: _facts(stored) == _facts(entries)):
            return False
        fetch_time = min(entry.fetch_time for entry in entries)
        words = {"provider": known.provider, "version": known.version}
        await self._database.execute("touch_catalog_source", **words, fetch_time=fetch_time)
        return True

    async def _read(self) -> _Shelf:
        async with self._reading:
            sources = await self._configured()
            while _versions(sources) != _versions(self._shelf.sources):
                parts = {source.provider: await self._part(source) for source in sources}
                book = await asyncio.to_thread(OfferBook, chain.from_iterable(offers for _, offers in parts.values()))
                # Rows are read in parts, and may have been replaced between two of them.
                before, sources = sources, await self._configured()
                if _versions(before) == _versions(sources):
                    self._shelf = _Shelf(book=book, sources=sources, parts=parts)
            return replace(self._shelf, sources=sources)

    async def _configured(self) -> tuple[Source, ...]:
        return tuple(source for source in await self.sources() if source.provider in self._regions)

    async def _part(self, source: Source) -> tuple[_Version, Sequence[Offer]]:
        """The offers of one provider; from memory when they are still of this version."""
        part = self._shelf.parts.get(source.provider)
        if part is not None and part[0] == _version(source):
            return part
        regions = self._regions[source.provider]
        types = self._machine_types.get(source.provider)
        offers: list[Offer] = []
        async for entries in self._stored(source.provider):
            offers += offers_of(
                entry
                for entry in entries
                if (not regions or entry.place.region in regions) and (types is None or types.match(entry.machine_type))
            )
        return _version(source), offers

    async def _stored(self, provider: str) -> AsyncIterator[list[CatalogEntry]]:
        """All that is stored of a provider, in parts."""
        after: CatalogKey | None = _FIRST
        while after is not None:
            region, zone, machine_type, gpu_name, gpu_count = after
            rows = await self._database.fetch(
                "page_catalog_entries",
                provider=provider,
                region=region,
                zone=zone,
                machine_type=machine_type,
                gpu_name=gpu_name,
                gpu_count=gpu_count,
                count=_PART,
            )
            entries = [catalog_entry(provider, row) for row in rows]
            yield entries
            after = catalog_key(entries[-1]) if len(entries) == _PART else None


def _fault_of(provider: str, entries: Sequence[CatalogEntry], known: Source | None) -> str:
    """Why an answer is not believed; empty: it is."""
    if not entries:
        return f"{provider} says that it rents out nothing"
    foreign = next((entry for entry in entries if entry.place.provider != provider), None)
    if foreign is not None:
        return f"{provider} offers {foreign.machine_type} in {foreign.place}, which is not its own"
    # A part of an answer looks like a whole one. Few entries change much, and so does a seed.
    if known is None or known.source == "seed" or known.entries < _FEW_ENTRIES:
        return ""
    if len(entries) < known.entries * _LEAST_SHARE:
        return (
            f"{provider} names {len(entries):,} types and places, it had {known.entries:,}; the answer may be cut off"
        )
    return ""


def _kept(provider: str, known: Source | None, error: str, code: str = "") -> Replaced:
    _log.warning("catalog_kept", provider=provider, error=error, code=code)
    return Replaced(provider=provider, entries=known.entries if known else 0, error=error)


def _versions(sources: Iterable[Source]) -> list[tuple[str, _Version]]:
    return [(source.provider, _version(source)) for source in sources]


def _version(source: Source) -> _Version:
    # A database that was restored counts from an older number.
    return source.version, source.replace_time


def _facts(entries: Iterable[CatalogEntry]) -> dict[CatalogKey, tuple[object, ...]]:
    """What entries say, whenever somebody looked."""
    return {
        catalog_key(entry): (
            entry.size,
            entry.price_micros,
            entry.spot_price_micros,
            entry.gpus_attached,
            entry.estimate,
        )
        for entry in entries
    }


def _unique(entries: Iterable[CatalogEntry]) -> list[CatalogEntry]:
    """What is there twice counts once: the key is what an offer is told by."""
    return list({catalog_key(entry): entry for entry in entries}.values())


async def _copy(transaction: Transaction, entries: Iterable[CatalogEntry]) -> None:
    left = iter(entries)
    while part := [catalog_record(entry) for entry in islice(left, _PART)]:
        await transaction.copy("catalog", CATALOG_COLUMNS, part)


def _source_values(provider: str, source: str, entries: Sequence[CatalogEntry]) -> dict[str, object]:
    fetch_time = min(entry.fetch_time for entry in entries)
    return {"provider": provider, "source": source, "entries": len(entries), "fetch_time": fetch_time}


def _source(row: Row) -> Source:
    return Source(**{name: row[name] for name in Source.__slots__})


def _listed(offer: Offer, shelf: _Shelf) -> ListedOffer:
    times = (source.fetch_time for source in shelf.sources if source.provider == offer.place.provider)
    return ListedOffer(offer=offer, fetch_time=next(times, None))


def _gpu_model(key: tuple[str, int, int], offers: Sequence[Offer], shelf: _Shelf) -> GpuModel:
    """One model; `offers` are all that have it, the cheapest first."""
    name, count, memory_bytes = key
    firsts = [next((offer for offer in offers if offer.spot is spot), None) for spot in (False, True)]
    cheapest, cheapest_spot = (None if offer is None else _listed(offer, shelf) for offer in firsts)
    return GpuModel(
        name=name,
        count=count,
        memory_bytes=memory_bytes,
        offers=len(offers),
        cheapest=cheapest,
        cheapest_spot=cheapest_spot,
    )
