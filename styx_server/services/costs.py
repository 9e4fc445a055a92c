"""What rented machines have cost, and whose work it was for. The arithmetic is in `core/machines/cost.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Final

from styx_server.core.errors import InvalidRequest, Violation
from styx_server.core.machines.cost import Charge, Held, PriceInterval, Span, charges, days_of, micros, share_of
from styx_server.core.task import TaskId
from styx_server.services.instance_views import price_interval
from styx_server.services.shapes import Shapes
from styx_server.store.database import Database, Row

MAX_SPAN: Final = timedelta(days=400)
MAX_ENTRIES: Final = 1000
_PAGE: Final = 200


class GroupBy(IntEnum):
    """What the entries of a report are made of. Numbers are those of the wire."""

    NOTHING = 0
    POOL = 1
    NAMESPACE = 2
    TASK = 3
    INSTANCE = 4
    DAY = 5
    LABEL = 6
    PROVIDER = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class CostQuery:
    """What to report. Empty: all."""

    span: Span
    by: GroupBy = GroupBy.NOTHING
    label_key: str = ""
    pool: str = ""
    namespace: str = ""
    task_id: TaskId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of a report."""

    key: str
    cost_micros: int
    held: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What was spent. `price_micros`: of all that is rented now, for an hour."""

    span: Span
    cost_micros: int
    idle_micros: int
    price_micros: int
    instances: int
    estimate: bool
    frozen: bool
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Holder:
    """A task whose attempt held a part of a machine."""

    task_id: int
    namespace: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Machine:
    """A rented machine with its prices, and what ran there."""

    row: Row
    prices: Sequence[PriceInterval]
    held: Sequence[Held]


@dataclass(slots=True)
class _Sums:
    """What was added up so far: amounts, and time held, by key."""

    query: CostQuery
    total: int = 0
    idle: int = 0
    estimate: bool = False
    amounts: dict[str, int] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)

    def add(self, machines: Iterable[_Machine]) -> None:
        """Adds what these machines cost."""
        query = self.query
        spans = list(days_of(query.span)) if query.by is GroupBy.DAY else [query.span]
        for machine in machines:
            self.estimate = self.estimate or bool(machine.row["estimate"])
            for span in spans:
                for charge in charges(machine.prices, machine.held, span):
                    self._take(machine.row, charge)

    def _take(self, row: Row, charge: Charge) -> None:
        query, holder = self.query, charge.holder
        assert holder is None or isinstance(holder, _Holder)
        if (query.namespace or query.task_id is not None) and holder is None:
            return
        if holder is not None and (
            query.namespace not in ("", holder.namespace) or query.task_id not in (None, holder.task_id)
        ):
            return
        self.total += charge.amount
        self.idle += charge.amount if holder is None else 0
        if query.by is not GroupBy.NOTHING:
            key = _key(query, row, charge, holder)
            self.amounts[key] = self.amounts.get(key, 0) + charge.amount
            self.held[key] = self.held.get(key, 0) + charge.microseconds

    def entries(self) -> tuple[Entry, ...]:
        """The dearest first; days in their order."""
        found = [
            Entry(key=key, cost_micros=micros(amount), held=timedelta(microseconds=self.held[key]))
            for key, amount in self.amounts.items()
        ]
        found.sort(key=lambda entry: entry.key if self.query.by is GroupBy.DAY else (-entry.cost_micros, entry.key))
        return tuple(found[:MAX_ENTRIES])


class Costs:
    """Reports."""

    def __init__(self, database: Database, shapes: Shapes) -> None:
        self._database = database
        self._shapes = shapes

    async def report(self, query: CostQuery) -> Report:
        """What was spent in a span of time. Reads all attempts of rented machines; for people, not for loops.

        Raises:
            InvalidRequest: the span is empty or too long, or a label is missing.
        """
        _check(query)
        sums = _Sums(query)
        after = 0
        while True:
            rows = await self._database.fetch(
                "priced_instances",
                after=after,
                pool=query.pool or None,
                start_time=query.span.start,
                end_time=query.span.end,
                count=_PAGE,
            )
            if not rows:
                break
            # A thousand attempts take a moment, and others are not to wait for it.
            await asyncio.to_thread(sums.add, await self._machines(rows, query.span))
            after = rows[-1]["id"]
        rate = await self._database.fetch_row("running_rate", pool=query.pool or None)
        frozen = await self._database.fetch_row("renting_frozen")
        assert rate is not None
        return Report(
            span=query.span,
            cost_micros=micros(sums.total),
            idle_micros=micros(sums.idle),
            price_micros=rate["price_micros"],
            instances=rate["instances"],
            estimate=sums.estimate,
            frozen=frozen is not None and frozen["frozen"],
            entries=sums.entries(),
        )

    async def _machines(self, rows: Sequence[Row], span: Span) -> list[_Machine]:
        prices: dict[int, list[PriceInterval]] = {}
        for row in await self._database.fetch("list_prices", instance_ids=[row["id"] for row in rows]):
            prices.setdefault(row["instance_id"], []).append(price_interval(row))
        sizes = {row["agent_id"]: row for row in rows if row["agent_id"] is not None}
        held: dict[int, list[Held]] = {}
        attempts = await self._database.fetch(
            "attempts_on_agents", agent_ids=list(sizes), start_time=span.start, end_time=span.end
        )
        for row in attempts:
            held.setdefault(row["agent_id"], []).append(await self._held(row, sizes[row["agent_id"]], span.end))
        return [_Machine(row=row, prices=prices.get(row["id"], ()), held=held.get(row["agent_id"], ())) for row in rows]

    async def _held(self, row: Row, machine: Row, now: datetime) -> Held:
        need = (await self._shapes.get(row["shape_id"])).resources
        return Held(
            holder=_Holder(task_id=row["task_id"], namespace=row["namespace"], labels=row["labels"]),
            span=Span(start=row["start_time"], end=row["end_time"] or now),
            share=share_of(need.cpus_milli, need.gpu_count, machine["cpus_milli"], machine["gpu_count"]),
        )


def _key(query: CostQuery, row: Row, charge: Charge, holder: _Holder | None) -> str:
    match query.by:
        case GroupBy.POOL:
            return str(row["pool"])
        case GroupBy.PROVIDER:
            return str(row["provider"])
        case GroupBy.INSTANCE:
            return f"i{row['id']}"
        case GroupBy.DAY:
            return charge.span.start.date().isoformat()
        case _ if holder is None:
            return ""
        case GroupBy.NAMESPACE:
            return holder.namespace
        case GroupBy.TASK:
            return f"t{holder.task_id}"
        case _:
            return holder.labels.get(query.label_key, "")


def _check(query: CostQuery) -> None:
    violations = []
    length = query.span.end - query.span.start
    if length <= timedelta():
        violations.append(Violation(field="start_time", description="is not before end_time"))
    elif length > MAX_SPAN:
        text = f"is {length.days} days before end_time, at most {MAX_SPAN.days} are reported; ask for less"
        violations.append(Violation(field="start_time", description=text))
    if (query.by is GroupBy.LABEL) != bool(query.label_key):
        text = "goes with LABEL; say which label" if query.by is GroupBy.LABEL else "goes with group_by LABEL alone"
        violations.append(Violation(field="label_key", description=text))
    if violations:
        raise InvalidRequest(violations)
