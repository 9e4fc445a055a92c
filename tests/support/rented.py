"""Rows of rented machines as a test wants them, without a provider and without anybody who rents."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from styx_server.clock import now
from styx_server.core.machines.instance import InstanceId, InstanceState
from styx_server.core.machines.offer import MachineSize, Offer, Place
from tests.support.builders import GIB
from tests.support.server import Server

_INSERT = """
insert into instances (id, pool, provider, region, zone, machine_type, spot, price_micros, offer, state, key, cloud_id,
    agent_id, create_time, launch_time, end_time, expire_time)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14::timestamptz, $14, $15,
    $14::timestamptz + interval '7 days')"""


def an_offer(**changes: Any) -> Offer:
    """Something to rent: four cores for a dollar an hour."""
    size = MachineSize(cpus_milli=4000, memory_bytes=16 * GIB)
    usual = {"machine_type": "m4", "size": size, "spot": False, "price_micros": 1_000_000}
    return Offer(**{"place": Place(provider="fake", region="north", zone="north-a"), **usual, **changes})


async def a_machine(
    server: Server,
    number: int,
    state: InstanceState = InstanceState.READY,
    *,
    offer: Offer | None = None,
    hours: float = 1.0,
    **columns: Any,
) -> InstanceId:
    """Stores a machine that was rented so many hours ago; one that has ended has just done so."""
    what = offer or an_offer()
    end: datetime = columns.get("end_time") or now()
    start = columns.get("create_time") or end - timedelta(hours=hours)
    end_time = end if state.ended else None
    async with server.database.connection() as connection:
        await connection.execute(
            _INSERT,
            number,
            columns.get("pool", "default"),
            what.place.provider,
            what.place.region,
            what.place.zone,
            what.machine_type,
            what.spot,
            what.price_micros,
            json.loads(json.dumps(asdict(what))),
            int(state),
            f"styx-test-{number}",
            f"cloud-{number}" if state is not InstanceState.INTENT else "",
            columns.get("agent_id"),
            start,
            end_time,
        )
        if state not in (InstanceState.INTENT, InstanceState.FAILED):
            await connection.execute(
                "insert into instance_prices (instance_id, start_time, end_time, price_micros) values ($1, $2, $3, $4)",
                number,
                start,
                end_time,
                what.price_micros,
            )
    return InstanceId(number)
