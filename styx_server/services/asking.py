"""Asks providers on behalf of a person: whether they can be used, and for their prices. One after the other."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches

from styx_server.core.errors import InvalidRequest, Violation
from styx_server.providers.ports import CheckReport, Finding, Provider, ProviderError
from styx_server.services.catalog import Catalog, Replaced
from styx_server.services.tasks import Mutation


class Asking:
    """The providers that are configured."""

    def __init__(self, providers: Mapping[str, Provider], catalog: Catalog) -> None:
        self._providers = providers
        self._catalog = catalog

    async def check(self, names: Sequence[str]) -> AsyncGenerator[CheckReport, None]:
        """Yields for each provider whether it can be used; no names: all of them.

        Raises:
            InvalidRequest: one is not configured; nobody was asked.
        """
        for provider in self._chosen(names):
            try:
                yield await provider.check()
            except ProviderError as error:
                what = f"{error.message} ({error.code})" if error.code else error.message
                yield CheckReport(provider=provider.name, identity="", findings=(Finding(good=False, what=what),))

    async def refresh(self, names: Sequence[str], mutation: Mutation) -> AsyncGenerator[Replaced, None]:
        """Replaces what is known of each provider with its own answer; yields what came of it.

        Raises:
            InvalidRequest: one is not configured; nobody was asked.
            Conflict: the request id was used for something else.
        """
        for provider in self._chosen(names):
            # Each provider is replaced in a transaction of its own, which is repeated by itself.
            yield await self._catalog.refresh(provider, replace(mutation, method=f"{mutation.method}/{provider.name}"))

    def _chosen(self, names: Sequence[str]) -> list[Provider]:
        unknown = [
            Violation(field=f"providers[{index}]", description=_unknown(name, self._providers))
            for index, name in enumerate(names)
            if name not in self._providers
        ]
        if unknown:
            raise InvalidRequest(unknown)
        return [self._providers[name] for name in dict.fromkeys(names or sorted(self._providers))]


def _unknown(name: str, known: Mapping[str, Provider]) -> str:
    near = get_close_matches(name, known, n=1)
    if near:
        return f"is {name[:40]!r}, which is not configured; did you mean {near[0]}?"
    there = ", ".join(sorted(known)) or "none"
    return f"is {name[:40]!r}, which is not configured; configured are: {there}"
