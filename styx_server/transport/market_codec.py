"""Messages about offers, plans and costs to values and back; pools and rented machines are in `machine_codec.py`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from styx.v1 import machines_pb2, styx_service_pb2
from styx_server.core.errors import InvalidRequest, Violation
from styx_server.core.machines.cost import Span
from styx_server.core.machines.failover import Block
from styx_server.core.machines.needs import MachineNeeds, SpotUse
from styx_server.core.machines.offer import Place
from styx_server.providers.ports import CheckReport
from styx_server.services.budgets import BudgetKey, BudgetPeriod, BudgetScope, BudgetView
from styx_server.services.catalog import GpuModel, ListedOffer
from styx_server.services.costs import CostQuery, GroupBy, Report
from styx_server.services.planning import Planned
from styx_server.transport import codec, machine_codec

_USUAL_SPAN: Final = timedelta(days=30)
_MAX_CPUS: Final = 1e6
_SCOPES: Final = {1: BudgetScope.ALL, 2: BudgetScope.POOL, 3: BudgetScope.NAMESPACE}
_PERIODS: Final = {1: BudgetPeriod.DAY, 2: BudgetPeriod.MONTH, 3: BudgetPeriod.TOTAL}
_SCOPE_NUMBERS: Final = {scope: number for number, scope in _SCOPES.items()}
_PERIOD_NUMBERS: Final = {period: number for number, period in _PERIODS.items()}


def wanted_offers(request: styx_service_pb2.ListOffersRequest) -> MachineNeeds:
    """Which offers are asked for.

    Raises:
        InvalidRequest: something is wrong with it.
    """
    if not 0 <= request.min_cpus <= _MAX_CPUS:
        text = f"is {request.min_cpus:g}, must be from 0 to {_MAX_CPUS:,.0f}"
        raise InvalidRequest([Violation(field="min_cpus", description=text)])
    if request.gpus.name and not request.gpus.count:
        raise InvalidRequest([Violation(field="gpus.count", description="is 0; say how many, at least 1")])
    return MachineNeeds(
        cpus_milli=round(request.min_cpus * 1000),
        memory_bytes=request.min_memory_bytes,
        gpu_name=request.gpus.name,
        gpu_count=request.gpus.count,
        gpu_memory_bytes=request.gpus.memory_bytes,
        places=machine_codec.places(request.infra, "infra"),
        machine_types=tuple(request.machine_types),
        spot=machine_codec.spot_use(request.spot, "spot") or SpotUse.ANY,
    )


def listed_offer(listed: ListedOffer) -> machines_pb2.Offer:
    """An offer with the time of its price."""
    message = machine_codec.offer(listed.offer)
    if listed.fetch_time is not None:
        message.fetch_time.FromDatetime(listed.fetch_time)
    return message


def gpu_model(model: GpuModel) -> machines_pb2.GpuModel:
    """A model of accelerator."""
    return machines_pb2.GpuModel(
        name=model.name,
        count=model.count,
        memory_bytes=model.memory_bytes,
        offer_count=model.offers,
        cheapest=None if model.cheapest is None else listed_offer(model.cheapest),
        cheapest_spot=None if model.cheapest_spot is None else listed_offer(model.cheapest_spot),
    )


def provider_check(report: CheckReport) -> machines_pb2.ProviderCheck:
    """Whether a provider can be used."""
    return machines_pb2.ProviderCheck(
        provider=report.provider,
        usable=report.usable,
        identity=report.identity,
        findings=[
            machines_pb2.Finding(good=finding.good, what=finding.what, remedy=finding.remedy)
            for finding in report.findings
        ],
    )


def plan(planned: Planned) -> machines_pb2.Plan:
    """What would be rented."""
    return machines_pb2.Plan(
        machines=[
            machines_pb2.PlannedMachines(
                offer=machine_codec.offer(pick.choice.offer),
                count=pick.machines,
                tasks_per_machine=pick.choice.fits,
            )
            for pick in planned.picks
        ],
        hourly_price_micros=planned.price_micros,
        agent_ids=[codec.agent_name(agent_id) for agent_id in planned.agents],
        alternatives=[machine_codec.offer(offer) for offer in planned.alternatives],
        dropped=[
            machines_pb2.DroppedOffers(reason=drop.words, count=drop.count, example=str(drop.example))
            for drop in planned.drops
        ],
        message=planned.message,
        refusals=[_refusal(block) for block in planned.refusals],
    )


def cost_query(request: styx_service_pb2.GetCostRequest, now: datetime) -> CostQuery:
    """What costs are asked for.

    Raises:
        InvalidRequest: something is wrong with it.
    """
    if int(request.group_by) not in {int(group) for group in GroupBy}:
        raise InvalidRequest([Violation(field="group_by", description="is nothing that costs can be grouped by")])
    end = codec.time_of(request, "end_time") or now
    return CostQuery(
        span=Span(start=codec.time_of(request, "start_time") or end - _USUAL_SPAN, end=end),
        by=GroupBy(request.group_by),
        label_key=request.label_key,
        pool=request.pool,
        namespace=request.namespace,
        task_id=codec.task_id(request.task_id) if request.task_id else None,
    )


def cost_report(report: Report, budgets: list[BudgetView]) -> machines_pb2.CostReport:
    """What was spent."""
    message = machines_pb2.CostReport(
        start_time=codec.timestamp(report.span.start),
        end_time=codec.timestamp(report.span.end),
        cost_micros=report.cost_micros,
        idle_cost_micros=report.idle_micros,
        hourly_price_micros=report.price_micros,
        instance_count=report.instances,
        estimate=report.estimate,
        budgets=[budget(view) for view in budgets],
        renting_frozen=report.frozen,
    )
    for entry in report.entries:
        added = message.entries.add(key=entry.key, cost_micros=entry.cost_micros)
        added.held_time.FromTimedelta(entry.held)
    return message


def budget_key(scope: int, name: str, period: int) -> BudgetKey:
    """Which budget is meant.

    Raises:
        InvalidRequest: the scope or the period is missing.
    """
    violations = [
        Violation(field=field, description=f"is not said; it is one of {there}")
        for field, number, known, there in (
            ("scope", scope, _SCOPES, "ALL, POOL, NAMESPACE"),
            ("period", period, _PERIODS, "DAY, MONTH, TOTAL"),
        )
        if number not in known
    ]
    if "\0" in name:
        violations.append(Violation(field="name", description="has a NUL character, which no name has"))
    if violations:
        raise InvalidRequest(violations)
    return BudgetKey(scope=_SCOPES[scope], name=name, period=_PERIODS[period])


def budget(view: BudgetView) -> machines_pb2.Budget:
    """A limit on money, and how it stands."""
    return machines_pb2.Budget(
        scope=_SCOPE_NUMBERS[view.key.scope],  # type: ignore[arg-type]
        name=view.key.name,
        period=_PERIOD_NUMBERS[view.key.period],  # type: ignore[arg-type]
        limit_micros=view.limit_micros,
        warn_share=round(view.warn_share, 6),
        spent_micros=view.spent_micros,
        warned=view.warned,
        exhausted=view.exhausted,
        create_time=codec.timestamp(view.create_time),
    )


def _refusal(block: Block) -> machines_pb2.Refusal:
    key = block.key
    return machines_pb2.Refusal(
        infra=str(Place(provider=key.provider, region=key.region, zone=key.zone)),
        machine_type=key.machine_type,
        kind=block.kind,
        code=block.code,
        message=block.message,
        time=codec.timestamp(block.time),
        until_time=codec.timestamp(block.until.astimezone(UTC)),
        strike_count=block.strikes,
    )
