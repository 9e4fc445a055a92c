"""Rented machines as people see them. Their life is the business of `instances.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from styx_server.clock import Clock
from styx_server.core.errors import NotFound
from styx_server.core.machines.cost import PriceInterval, Span, cost_of, micros
from styx_server.core.machines.instance import Instance, InstanceId
from styx_server.core.machines.instance_filter import InstanceFilter
from styx_server.store.database import Database, Row
from styx_server.store.machine_rows import instance_from_row


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceView:
    """A rented machine, what an hour of it cost and when, and what that comes to so far."""

    instance: Instance
    prices: tuple[PriceInterval, ...]
    cost_micros: int


class InstanceViews:
    """All machines that were ever rented."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def page(self, wanted: InstanceFilter, below: int, count: int, *, include_ended: bool) -> list[InstanceView]:
        """Up to `count` of those that match, newest first, with ids below `below`."""
        rows = await self._database.fetch(
            "list_instances", below=below, count=count, include_ended=include_ended, **asdict(wanted)
        )
        return await self._views(rows)

    async def get(self, instance_id: InstanceId) -> InstanceView:
        """One of them.

        Raises:
            NotFound: there is none with this id.
        """
        views = await self._views(await self._database.fetch("view_instance", id=instance_id))
        if not views:
            text = f"there is no instance i{instance_id}; see `styx instance list --all`"
            raise NotFound(text, reason="INSTANCE_NOT_FOUND", instance_id=f"i{instance_id}")
        return views[0]

    async def _views(self, rows: Sequence[Row]) -> list[InstanceView]:
        if not rows:
            return []
        prices: dict[int, list[PriceInterval]] = {}
        for row in await self._database.fetch("list_prices", instance_ids=[row["id"] for row in rows]):
            prices.setdefault(row["instance_id"], []).append(price_interval(row))
        now = self._clock.now()
        return [
            InstanceView(
                instance=instance_from_row(row),
                prices=tuple(prices.get(row["id"], ())),
                cost_micros=micros(cost_of(prices.get(row["id"], ()), Span(start=row["create_time"], end=now))),
            )
            for row in rows
        ]


def price_interval(row: Row) -> PriceInterval:
    """A row of `list_prices`."""
    return PriceInterval(start_time=row["start_time"], end_time=row["end_time"], price_micros=row["price_micros"])
