"""What a client can ask about providers: what there is to rent, what would be rented, and what it has cost."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from styx import ids, names, wire
from styx.calls import Caller
from styx.machine_models import (
    Budget,
    BudgetPage,
    BudgetPeriod,
    BudgetScope,
    CatalogRefresh,
    CostGroup,
    CostReport,
    GpuModel,
    GpuPage,
    Offer,
    OfferPage,
    Plan,
    ProviderCheck,
)
from styx.models import SpotUse, TaskSpec
from styx.names import Id
from styx.spec import TaskOptions, task_spec
from styx.units import parse_gpus, parse_size
from styx.v1 import styx_service_pb2 as pb

if TYPE_CHECKING:
    from google.protobuf.message import Message

MICROS = 1_000_000


class MarketMethods:
    """Offers, accelerators, checks of providers, plans, the catalog."""

    _caller: Caller

    async def offers(
        self,
        *,
        gpus: str = "",
        cpus: float = 0,
        memory: int | str = 0,
        spot: SpotUse = SpotUse.UNKNOWN,
        infra: Sequence[str] = (),
        machine_types: Sequence[str] = (),
    ) -> AsyncGenerator[Offer, None]:
        """Yields what there is to rent, cheapest first; asks for pages as they are needed.

        Args:
            gpus: at least these accelerators, like `A100:8`.
            cpus: at least so many cores.
            memory: at least so much, in bytes or as `32GiB`.
            spot: only so; UNKNOWN: on demand and spot.
            infra: only there, like `aws/us-east-1`.
            machine_types: only these.

        Raises:
            InvalidRequest: `violations` names the fields.
        """
        request = pb.ListOffersRequest(
            page_size=1000,
            min_cpus=cpus,
            min_memory_bytes=parse_size(memory) if isinstance(memory, str) else memory,
            spot=_number(pb.ListOffersRequest, "spot", spot),
            infra=infra,
            machine_types=machine_types,
        )
        if gpus:
            request.gpus.name, request.gpus.count = parse_gpus(gpus)
        while True:
            page = wire.from_message(OfferPage, await self._caller.unary("ListOffers", request))
            for offer in page.offers:
                yield offer
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def gpus(self, name: str = "") -> AsyncGenerator[GpuModel, None]:
        """Yields models of accelerators that there are to rent, by name and number.

        Args:
            name: only this model; empty: all.
        """
        request = pb.ListGpusRequest(page_size=1000, name=name)
        while True:
            page = wire.from_message(GpuPage, await self._caller.unary("ListGpus", request))
            for model in page.gpus:
                yield model
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def check_providers(self, *providers: str) -> AsyncGenerator[ProviderCheck, None]:
        """Yields for each provider whether it can be used, as its answer comes.

        Args:
            *providers: their names; none: all that are configured.

        Raises:
            InvalidRequest: no such provider is configured.
        """
        request = pb.CheckProvidersRequest(providers=providers)
        async for message in self._caller.stream("CheckProviders", lambda: request):
            yield wire.from_message(ProviderCheck, message)

    async def plan(
        self, command: str | Sequence[str] | TaskSpec, *, count: int = 1, **options: Unpack[TaskOptions]
    ) -> Plan:
        """What would be rented for a task, and why; rents nothing.

        Args:
            command: as for `submit_task`.
            count: so many of it at once.
            **options: as for `submit_task`.

        Raises:
            InvalidRequest: `violations` names the fields.
        """
        request = pb.PlanTasksRequest(count=count)
        wire.fill(request.spec, command if isinstance(command, TaskSpec) else task_spec(command, **options))
        return wire.from_message(Plan, await self._caller.unary("PlanTasks", request))

    async def refresh_catalog(
        self, *providers: str, request_id: str | None = None
    ) -> AsyncGenerator[CatalogRefresh, None]:
        """Has providers asked for their types and prices; yields what came of each as it is done.

        Args:
            *providers: their names; none: all that are configured.
            request_id: made here when not given.

        Raises:
            InvalidRequest: no such provider is configured.
        """
        request = pb.RefreshCatalogRequest(providers=providers, request_id=request_id or ids.request_id())
        async for message in self._caller.stream("RefreshCatalog", lambda: request):
            yield wire.from_message(CatalogRefresh, message)

    async def import_catalog(self, provider: str, data: bytes, *, request_id: str | None = None) -> int:
        """Takes types and prices from a CSV file in the format of SkyPilot's catalog; returns how many it had.

        Args:
            provider: whose they are, for example `aws`.
            data: the file, plain or packed with gzip; at most 3 MiB.
            request_id: made here when not given.

        Raises:
            InvalidRequest: the file cannot be read; the message names the line.
        """
        request = pb.ImportCatalogRequest(provider=provider, data=data, request_id=request_id or ids.request_id())
        return int((await self._caller.unary("ImportCatalog", request)).entry_count)


class CostPart(TypedDict, total=False):
    """The part of the costs that `cost` is asked for. With a namespace or a task, idle time is left out."""

    pool: str
    namespace: str
    task_id: Id


class CostMethods:
    """What was spent, and limits on it."""

    _caller: Caller

    async def cost(
        self,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        by: CostGroup = CostGroup.UNKNOWN,
        label_key: str = "",
        **only: Unpack[CostPart],
    ) -> CostReport:
        """What was spent in a span of time, and what is being spent now.

        Args:
            start: None: 30 days before the end.
            end: None: now.
            by: what the entries are made of.
            label_key: for `CostGroup.LABEL`.
            **only: only that part; see `CostPart`.

        Raises:
            InvalidRequest: `violations` names the fields.
            TypeError: a keyword argument that is not in `CostPart`.
        """
        request = pb.GetCostRequest(group_by=_number(pb.GetCostRequest, "group_by", by), label_key=label_key)
        for field, value in (("start_time", start), ("end_time", end)):
            if value is not None:
                getattr(request, field).FromDatetime(value)
        unknown = sorted(set(only) - set(CostPart.__annotations__))
        if unknown:
            raise TypeError(f"cost() got an unexpected keyword argument {unknown[0]!r}")
        request.pool, request.namespace = only.get("pool", ""), only.get("namespace", "")
        request.task_id = names.task_id(only["task_id"]) if only.get("task_id") else ""
        return wire.from_message(CostReport, await self._caller.unary("GetCost", request))

    async def set_budget(
        self,
        limit: float,
        *,
        scope: BudgetScope = BudgetScope.ALL,
        name: str = "",
        period: BudgetPeriod = BudgetPeriod.MONTH,
        warn_share: float | None = None,
        request_id: str | None = None,
    ) -> Budget:
        """Sets a limit on money, or changes it: beyond it nothing is rented.

        Args:
            limit: in US dollars.
            scope: what it is for.
            name: of the pool or namespace.
            period: how often it starts again.
            warn_share: when this part is spent, it is warned of; None: 0.8.
            request_id: made here when not given.

        Raises:
            InvalidRequest: `violations` names the fields.
        """
        request = pb.SetBudgetRequest(
            scope=_number(pb.SetBudgetRequest, "scope", scope),
            name=name,
            period=_number(pb.SetBudgetRequest, "period", period),
            limit_micros=round(limit * MICROS),
            warn_share=warn_share,
            request_id=request_id or ids.request_id(),
        )
        return wire.from_message(Budget, await self._caller.unary("SetBudget", request))

    async def budgets(self) -> AsyncGenerator[Budget, None]:
        """Yields all limits on money, with what is spent of each."""
        request = pb.ListBudgetsRequest(page_size=1000)
        while True:
            page = wire.from_message(BudgetPage, await self._caller.unary("ListBudgets", request))
            for budget in page.budgets:
                yield budget
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def delete_budget(
        self,
        *,
        scope: BudgetScope = BudgetScope.ALL,
        name: str = "",
        period: BudgetPeriod = BudgetPeriod.MONTH,
        request_id: str | None = None,
    ) -> None:
        """Takes a limit away.

        Args:
            scope: what it is for.
            name: of the pool or namespace.
            period: which.
            request_id: made here when not given.

        Raises:
            BudgetNotFound: there is none like this.
        """
        request = pb.DeleteBudgetRequest(
            scope=_number(pb.DeleteBudgetRequest, "scope", scope),
            name=name,
            period=_number(pb.DeleteBudgetRequest, "period", period),
            request_id=request_id or ids.request_id(),
        )
        await self._caller.unary("DeleteBudget", request)


def _number(message: type[Message], field: str, value: StrEnum) -> Any:
    """The number of an enum value in a field of a message."""
    descriptor: Any = message.DESCRIPTOR.fields_by_name[field].enum_type
    return wire.enum_number(value, descriptor)
