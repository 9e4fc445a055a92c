"""What people see of pools, rented machines, offers and costs. As `views.py`: columns and lines, text made plain."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from styx.machine_models import (
    Budget,
    CostEntry,
    CostReport,
    GpuModel,
    Instance,
    InstanceState,
    Offer,
    Plan,
    Pool,
    PoolSpec,
    ProviderCheck,
    Renting,
)
from styx_cli.phrases import ago, number, rfc3339, size, span
from styx_cli.render import Column
from styx_cli.sanitize import plain
from styx_cli.tables import Cell
from styx_cli.views import fields, pairs

_MICROS = 1_000_000

INSTANCE_COLORS = {
    InstanceState.INTENT: "yellow",
    InstanceState.CREATING: "yellow",
    InstanceState.LAUNCHED: "yellow",
    InstanceState.READY: "green",
    InstanceState.DRAINING: "yellow",
    InstanceState.TERMINATING: "yellow",
    InstanceState.TERMINATED: "dim",
    InstanceState.FAILED: "red",
}


def dollars(micros: int) -> str:
    """`$12.30`; parts of a cent only where there is nothing larger."""
    sign, amount = ("-" if micros < 0 else ""), abs(micros) / _MICROS
    if amount == 0 or amount >= 1:
        return f"{sign}${amount:,.2f}"
    return f"{sign}${amount:.4f}"


def hourly(micros: int) -> str:
    """`$0.5260/h`."""
    return f"{dollars(micros)}/h"


def pool_columns() -> list[Column[Pool]]:
    """The table of pools."""
    return [
        Column("NAME", lambda pool: plain(pool.name)),
        Column("MACHINES", _machines),
        Column("AGENTS", lambda pool: str(pool.agent_count)),
        Column("COST", lambda pool: hourly(pool.hourly_price_micros)),
        Column("LIMIT", lambda pool: _limit(pool.spec)),
        Column("SPOT", lambda pool: _spot(pool.spec)),
        Column(
            "WHERE", lambda pool: plain(", ".join(pool.spec.infra)) if pool.spec and pool.spec.infra else "anywhere"
        ),
        Column("TYPES", lambda pool: plain(", ".join(pool.spec.machine_types)) if pool.spec else "", wide=True),
        Column("IDLE", lambda pool: _span(pool.spec.idle_timeout if pool.spec else None), wide=True),
        Column("LABELS", lambda pool: pairs(pool.spec.labels) if pool.spec else "", wide=True),
    ]


def pool_lines(pool: Pool, now: datetime) -> Iterator[str]:
    """One pool in full."""
    spec = pool.spec or PoolSpec()
    yield from fields(
        ("Pool", plain(pool.name) + ("  (for tasks that name no pool)" if pool.implicit else "")),
        ("Machines", f"{_machines(pool)}, at least {spec.min_machines}"),
        ("Agents", str(pool.agent_count)),
        ("Cost now", hourly(pool.hourly_price_micros)),
        ("Limit", _limit(pool.spec)),
        ("Spot", _spot(pool.spec)),
        ("Where", plain(", ".join(spec.infra)) or "anywhere"),
        ("Types", plain(", ".join(spec.machine_types)) or "any that fits"),
        ("Image", plain(spec.image)),
        ("Disk", size(spec.disk_bytes) if spec.disk_bytes else ""),
        ("Labels", pairs(spec.labels)),
        ("Idle", f"given back after {_span(spec.idle_timeout)}"),
        ("Life", f"at most {_span(spec.max_life)}"),
        ("Generation", str(pool.generation)),
        ("Created", f"{rfc3339(pool.create_time)}  ({ago(pool.create_time, now)})" if pool.create_time else ""),
    )


def instance_columns(now: datetime) -> list[Column[Instance]]:
    """The table of rented machines."""
    return [
        Column("ID", lambda each: each.id),
        Column("STATE", lambda each: Cell(each.state.value, INSTANCE_COLORS.get(each.state, ""))),
        Column("WHY", lambda each: plain(each.reason)),
        Column("POOL", lambda each: plain(each.pool)),
        Column("TYPE", lambda each: _type(each.offer)),
        Column("WHERE", lambda each: _where(each.offer)),
        Column("AGENT", lambda each: each.agent_id or "-"),
        Column("PRICE", lambda each: hourly(each.offer.hourly_price_micros) if each.offer else ""),
        Column("COST", lambda each: dollars(each.cost_micros)),
        Column("CLOUD ID", lambda each: plain(each.cloud_id), wide=True),
        Column("CREATED", lambda each: ago(each.create_time, now)),
        Column("IDLE", lambda each: ago(each.idle_time, now), wide=True),
    ]


def instance_lines(instance: Instance, now: datetime) -> Iterator[str]:
    """One rented machine in full."""
    offer = instance.offer
    times = (
        ("Decided", instance.create_time),
        ("Launched", instance.launch_time),
        ("Joined", instance.join_time),
        ("Idle since", instance.idle_time),
        ("Released", instance.release_time),
        ("Ended", instance.end_time),
        ("Ends by", instance.expire_time),
    )
    yield from fields(
        ("Instance", instance.id),
        ("State", instance.state.value + (f"  ({plain(instance.reason)})" if instance.reason else "")),
        ("Why", plain(instance.message)),
        ("Pool", plain(instance.pool)),
        ("Agent", instance.agent_id),
        ("Type", _type(offer)),
        ("Where", _where(offer)),
        ("Size", _size(offer) if offer else ""),
        ("Price", hourly(offer.hourly_price_micros) + (" (estimate)" if offer.estimate else "") if offer else ""),
        ("Cost", dollars(instance.cost_micros)),
        ("Cloud id", plain(instance.cloud_id)),
        ("Key", plain(instance.key)),
        *((title, f"{rfc3339(time)}  ({_relative(time, now)})" if time else "") for title, time in times),
    )
    if len(instance.prices) > 1:
        yield from ("", "Prices")
        for price in instance.prices:
            start = rfc3339(price.start_time) if price.start_time else "-"
            yield f"  from {start}  {hourly(price.hourly_price_micros)}"


def offer_columns() -> list[Column[Offer]]:
    """The table of offers."""
    return [
        Column("TYPE", lambda offer: plain(offer.machine_type)),
        Column("PRICE", lambda offer: hourly(offer.hourly_price_micros) + ("~" if offer.estimate else "")),
        Column("SPOT", lambda offer: "spot" if offer.spot else "-"),
        Column("CPUS", lambda offer: number(offer.cpus)),
        Column("MEMORY", lambda offer: size(offer.memory_bytes)),
        Column("GPUS", _gpus),
        Column("WHERE", _where),
        Column("ARCH", lambda offer: plain(offer.arch), wide=True),
        Column("FETCHED", lambda offer: rfc3339(offer.fetch_time) if offer.fetch_time else "", wide=True),
    ]


def gpu_columns() -> list[Column[GpuModel]]:
    """The table of models of accelerators."""
    return [
        Column("GPU", lambda model: plain(model.name)),
        Column("COUNT", lambda model: str(model.count)),
        Column("MEMORY", lambda model: size(model.memory_bytes) if model.memory_bytes else "-"),
        Column("ON DEMAND", lambda model: _cheapest(model.cheapest)),
        Column("SPOT", lambda model: _cheapest(model.cheapest_spot)),
        Column("OFFERS", lambda model: str(model.offer_count)),
    ]


def check_lines(check: ProviderCheck) -> Iterator[str]:
    """What is known of one provider."""
    verdict = "can be used" if check.usable else "cannot be used"
    yield f"{plain(check.provider)}: {verdict}" + (f", as {plain(check.identity)}" if check.identity else "")
    for finding in check.findings:
        yield f"  {'ok' if finding.good else 'no'}  {plain(finding.what)}"
        if finding.remedy and not finding.good:
            yield f"      {plain(finding.remedy)}"


def plan_lines(plan: Plan, now: datetime) -> Iterator[str]:
    """What would be rented, and why."""
    yield plain(plan.message)
    for machines in plan.machines:
        if machines.offer:
            each = f", {machines.tasks_per_machine} tasks on each" if machines.tasks_per_machine > 1 else ""
            yield f"  {machines.count} x {_offer_words(machines.offer)}{each}"
    if plan.machines:
        yield f"together {hourly(plan.hourly_price_micros)}"
    if plan.agent_ids:
        yield from ("", f"There already: {', '.join(plan.agent_ids)}")
    if plan.alternatives:
        yield from ("", "Next best")
        yield from (f"  {_offer_words(offer)}" for offer in plan.alternatives)
    if plan.dropped:
        yield from ("", "Dropped")
        yield from (
            f"  {drop.count:>6}  {plain(drop.reason)}  (such as {plain(drop.example)})" for drop in plan.dropped
        )
    if plan.refusals:
        yield from ("", "Refused lately")
        for refusal in plan.refusals:
            until = f", not before {rfc3339(refusal.until_time)}" if refusal.until_time else ""
            where = " ".join(filter(None, (plain(refusal.machine_type), "in", plain(refusal.infra))))
            yield f"  {where}: {plain(refusal.message)} ({plain(refusal.kind)}, {ago(refusal.time, now)}{until})"


def cost_lines(report: CostReport) -> Iterator[str]:
    """The sums of a report."""
    about = " (some prices are estimates)" if report.estimate else ""
    machines = "1 machine" if report.instance_count == 1 else f"{report.instance_count} machines"
    yield from fields(
        ("From", rfc3339(report.start_time) if report.start_time else ""),
        ("To", rfc3339(report.end_time) if report.end_time else ""),
        ("Cost", dollars(report.cost_micros) + about),
        ("Of that idle", dollars(report.idle_cost_micros)),
        ("Now", f"{hourly(report.hourly_price_micros)} for {machines}"),
        ("Renting", "frozen; `styx unfreeze` lets it go on" if report.renting_frozen else ""),
        *(("Budget", _budget_words(budget)) for budget in report.budgets),
    )


def cost_columns(title: str) -> list[Column[CostEntry]]:
    """The table of entries of a report."""
    return [
        Column(title.upper(), lambda entry: plain(entry.key) or "(idle)"),
        Column("COST", lambda entry: dollars(entry.cost_micros)),
        Column("HELD", lambda entry: _span(entry.held_time)),
    ]


def renting_line(renting: Renting) -> str:
    """How renting stands."""
    machines = "1 machine is" if renting.instance_count == 1 else f"{renting.instance_count} machines are"
    state = "frozen: nothing is rented" if renting.frozen else "on"
    return f"renting is {state}; {machines} rented now, for {hourly(renting.hourly_price_micros)}"


def budget_columns() -> list[Column[Budget]]:
    """The table of budgets."""
    return [
        Column("FOR", budget_name),
        Column("PERIOD", lambda budget: budget.period.value.lower()),
        Column("LIMIT", lambda budget: dollars(budget.limit_micros)),
        Column("SPENT", lambda budget: dollars(budget.spent_micros)),
        Column("STANDS", _standing),
        Column("WARNS AT", lambda budget: f"{budget.warn_share:.0%}", wide=True),
    ]


def budget_name(budget: Budget) -> str:
    """What a budget is for: `all`, `pool gpu`."""
    return f"{budget.scope.value.lower()} {plain(budget.name)}".strip()


def _budget_words(budget: Budget) -> str:
    word = "spent" if budget.exhausted else "nearly spent"
    spent = f"{dollars(budget.spent_micros)} of {dollars(budget.limit_micros)}"
    return f"{budget_name(budget)}, {budget.period.value.lower()}: {spent}, {word}"


def _standing(budget: Budget) -> Cell:
    if budget.exhausted:
        return Cell("spent", "red")
    return Cell("nearly spent", "yellow") if budget.warned else Cell("good", "green")


def _machines(pool: Pool) -> str:
    most = 10 if pool.spec is None or pool.spec.max_machines is None else pool.spec.max_machines
    return f"{pool.instance_count} of {most}"


def _limit(spec: PoolSpec | None) -> str:
    return "-" if spec is None or spec.max_hourly_cost is None else f"${spec.max_hourly_cost:,.2f}/h"


def _spot(spec: PoolSpec | None) -> str:
    return spec.spot.value.lower().replace("_", "-") if spec else ""


def _span(length: timedelta | None) -> str:
    return "" if length is None else span(length.total_seconds())


def _type(offer: Offer | None) -> str:
    return "" if offer is None else plain(offer.machine_type) + (" spot" if offer.spot else "")


def _where(offer: Offer | None) -> str:
    return "" if offer is None else plain("/".join(filter(None, (offer.provider, offer.region, offer.zone))))


def _size(offer: Offer) -> str:
    return ", ".join(filter(None, (f"{number(offer.cpus)} cpus", size(offer.memory_bytes), _gpus(offer))))


def _gpus(offer: Offer) -> str:
    return f"{plain(offer.gpu_name) or 'any'}:{offer.gpu_count}" if offer.gpu_count else ""


def _offer_words(offer: Offer) -> str:
    about = ", estimate" if offer.estimate else ""
    return f"{_type(offer)} in {_where(offer)}: {_size(offer)}, {hourly(offer.hourly_price_micros)}{about}"


def _cheapest(offer: Offer | None) -> str:
    return "-" if offer is None else f"{hourly(offer.hourly_price_micros)} {_where(offer)}"


def _relative(time: datetime, now: datetime) -> str:
    return ago(time, now) if time <= now else f"in {span((time - now).total_seconds())}"
