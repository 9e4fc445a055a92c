"""The part of the public service that is about money: reports, budgets, and the tap."""

from __future__ import annotations

from typing import Any

import grpc

from styx.v1 import machines_pb2, styx_service_pb2
from styx_server import clock
from styx_server.core.errors import InvalidRequest, Violation
from styx_server.services.budgets import BudgetKey, BudgetPeriod, BudgetScope
from styx_server.services.tasks import Mutation
from styx_server.transport import market_codec
from styx_server.transport.machine_use_cases import MachineUseCases
from styx_server.transport.mutations import mutation_fields
from styx_server.transport.paging import MAX_PAGE_SIZE, make_token, page_size, read_text_token

_Context = grpc.aio.ServicerContext[Any, Any]


class CostMethods:
    """Methods of `styx.v1.StyxService`."""

    _machines: MachineUseCases

    async def GetCost(  # noqa: N802
        self, request: styx_service_pb2.GetCostRequest, context: _Context
    ) -> machines_pb2.CostReport:
        """What was spent, and what is being spent now."""
        del context
        for field in ("pool", "namespace", "label_key"):
            if "\0" in getattr(request, field):
                raise InvalidRequest([Violation(field=field, description="has a NUL character")])
        query = market_codec.cost_query(request, clock.now())
        report = await self._machines.costs.report(query)
        budgets = await self._machines.budgets.page(None, MAX_PAGE_SIZE)
        return market_codec.cost_report(report, [view for view in budgets if view.warned or view.exhausted])

    async def SetBudget(  # noqa: N802
        self, request: styx_service_pb2.SetBudgetRequest, context: _Context
    ) -> machines_pb2.Budget:
        """Sets a limit on money, or changes it."""
        del context
        mutation = Mutation(**mutation_fields(request, "SetBudget"))
        key = market_codec.budget_key(request.scope, request.name, request.period)
        share = request.warn_share if request.HasField("warn_share") else None
        return market_codec.budget(await self._machines.budgets.set(key, request.limit_micros, share, mutation))

    async def ListBudgets(  # noqa: N802
        self, request: styx_service_pb2.ListBudgetsRequest, context: _Context
    ) -> styx_service_pb2.ListBudgetsResponse:
        """A page of limits on money."""
        del context
        count = page_size(request.page_size)
        position = read_text_token(request.page_token, "budgets")
        views = await self._machines.budgets.page(_after(position), count)
        token = make_token(_position(views[-1].key), "budgets") if len(views) == count else ""
        found = [market_codec.budget(view) for view in views]
        return styx_service_pb2.ListBudgetsResponse(budgets=found, next_page_token=token)

    async def DeleteBudget(  # noqa: N802
        self, request: styx_service_pb2.DeleteBudgetRequest, context: _Context
    ) -> styx_service_pb2.DeleteBudgetResponse:
        """Takes a limit away."""
        del context
        mutation = Mutation(**mutation_fields(request, "DeleteBudget"))
        key = market_codec.budget_key(request.scope, request.name, request.period)
        await self._machines.budgets.delete(key, mutation)
        return styx_service_pb2.DeleteBudgetResponse()

    async def SetRenting(  # noqa: N802
        self, request: styx_service_pb2.SetRentingRequest, context: _Context
    ) -> styx_service_pb2.SetRentingResponse:
        """Stops all renting, or lets it go on."""
        del context
        mutation = Mutation(**mutation_fields(request, "SetRenting"))
        rate = await self._machines.budgets.set_frozen(mutation, frozen=request.frozen)
        return styx_service_pb2.SetRentingResponse(
            frozen=rate.frozen, instance_count=rate.instances, hourly_price_micros=rate.price_micros
        )


def _position(key: BudgetKey) -> str:
    return f"{key.scope.value}/{key.period.value}/{key.name}"


def _after(position: str | None) -> BudgetKey | None:
    if position is None:
        return None
    scope, period, name = position.split("/", 2)
    return BudgetKey(scope=BudgetScope(scope), name=name, period=BudgetPeriod(period))
