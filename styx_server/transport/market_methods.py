"""The part of the public service that is about providers: what there is to rent, and what would be rented."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Final

import grpc

from styx.v1 import machines_pb2, styx_service_pb2
from styx_server.core.errors import InvalidRequest, Violation
from styx_server.core.lease import LeaseTerms
from styx_server.core.limits import MAX_BATCH
from styx_server.services.tasks import Mutation
from styx_server.transport import codec, market_codec
from styx_server.transport.machine_use_cases import MachineUseCases
from styx_server.transport.mutations import mutation_fields
from styx_server.transport.paging import make_token, page_size, read_text_token, read_token

_Context = grpc.aio.ServicerContext[Any, Any]

_MAX_PROVIDERS: Final = 20


class MarketMethods:
    """Methods of `styx.v1.StyxService`."""

    _machines: MachineUseCases
    _terms: LeaseTerms

    async def ListOffers(  # noqa: N802
        self, request: styx_service_pb2.ListOffersRequest, context: _Context
    ) -> styx_service_pb2.ListOffersResponse:
        """A page of offers, cheapest first."""
        del context
        scope = ("offers", _mark(request))
        after = read_text_token(request.page_token, *scope) or ""
        wanted = market_codec.wanted_offers(request)
        page = await self._machines.catalog.page(wanted, after, page_size(request.page_size))
        token = make_token(page.after, *scope) if page.after else ""
        offers = [market_codec.listed_offer(listed) for listed in page.offers]
        return styx_service_pb2.ListOffersResponse(offers=offers, next_page_token=token)

    async def ListGpus(  # noqa: N802
        self, request: styx_service_pb2.ListGpusRequest, context: _Context
    ) -> styx_service_pb2.ListGpusResponse:
        """A page of models of accelerators, by name and number."""
        del context
        scope = ("gpus", request.name)
        start = read_token(request.page_token, *scope) or 0
        end = start + page_size(request.page_size)
        models = await self._machines.catalog.gpus(request.name)
        token = make_token(end, *scope) if end < len(models) else ""
        found = [market_codec.gpu_model(model) for model in models[start:end]]
        return styx_service_pb2.ListGpusResponse(gpus=found, next_page_token=token)

    async def CheckProviders(  # noqa: N802
        self, request: styx_service_pb2.CheckProvidersRequest, context: _Context
    ) -> AsyncIterator[machines_pb2.ProviderCheck]:
        """Whether providers can be used."""
        del context
        async with aclosing(self._machines.asking.check(_names(list(request.providers)))) as reports:
            async for report in reports:
                yield market_codec.provider_check(report)

    async def PlanTasks(  # noqa: N802
        self, request: styx_service_pb2.PlanTasksRequest, context: _Context
    ) -> machines_pb2.Plan:
        """What would be rented for tasks."""
        del context
        if not 0 <= request.count <= MAX_BATCH:
            raise InvalidRequest([Violation(field="count", description=f"must be 0 to {MAX_BATCH:,}")])
        task = codec.new_task(request.spec, "spec", self._terms)
        return market_codec.plan(await self._machines.planning.plan(task.shape, request.count or 1))

    async def RefreshCatalog(  # noqa: N802
        self, request: styx_service_pb2.RefreshCatalogRequest, context: _Context
    ) -> AsyncIterator[styx_service_pb2.RefreshCatalogResponse]:
        """Asks providers for their types and prices."""
        del context
        mutation = Mutation(**mutation_fields(request, "RefreshCatalog"))
        async with aclosing(self._machines.asking.refresh(_names(list(request.providers)), mutation)) as answers:
            async for answer in answers:
                yield styx_service_pb2.RefreshCatalogResponse(
                    provider=answer.provider, entry_count=answer.entries, error=answer.error
                )

    async def ImportCatalog(  # noqa: N802
        self, request: styx_service_pb2.ImportCatalogRequest, context: _Context
    ) -> styx_service_pb2.ImportCatalogResponse:
        """Takes types and prices from a file."""
        del context
        mutation = Mutation(**mutation_fields(request, "ImportCatalog"))
        taken = await self._machines.catalog.import_csv(request.provider, request.data, mutation)
        return styx_service_pb2.ImportCatalogResponse(entry_count=taken.entries)


def _names(names: list[str]) -> list[str]:
    if len(names) > _MAX_PROVIDERS:
        text = f"has {len(names)} entries, at most {_MAX_PROVIDERS} are taken"
        raise InvalidRequest([Violation(field="providers", description=text)])
    return names


def _mark(request: styx_service_pb2.ListOffersRequest) -> str:
    """What tells this list from others."""
    copy = styx_service_pb2.ListOffersRequest()
    copy.CopyFrom(request)
    copy.ClearField("page_token")
    copy.ClearField("page_size")
    return copy.SerializeToString(deterministic=True).hex()
