"""Rows of machines, pools and offers to domain values and back, as `rows.py` does it for tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from styx_server.core.machines.instance import Boot, Instance, InstanceId, InstanceState, RentOrder
from styx_server.core.machines.needs import SpotUse
from styx_server.core.machines.offer import MachineSize, Offer, Place
from styx_server.core.machines.pool import Pool, PoolSpec
from styx_server.core.task import AgentId
from styx_server.store.database import Row

Json = dict[str, Any]


def offer_to_json(offer: Offer) -> Json:
    """An offer as stored."""
    return asdict(offer)


def offer_from_json(body: Mapping[str, Any]) -> Offer:
    """A stored offer."""
    return Offer(**{**body, "place": Place(**body["place"]), "size": MachineSize(**body["size"])})


def order_to_json(order: RentOrder) -> Json:
    """A frozen request as stored."""
    return asdict(order)


def order_from_json(body: Mapping[str, Any]) -> RentOrder:
    """A stored request; equal to the one that was frozen, so that every call of it is."""
    boot = Boot(**{**body["boot"], "server_urls": tuple(body["boot"]["server_urls"])})
    number = InstanceId(body["instance_id"])
    return RentOrder(**{**body, "instance_id": number, "offer": offer_from_json(body["offer"]), "boot": boot})


def pool_spec_to_json(spec: PoolSpec) -> Json:
    """What is said about a pool, as stored."""
    return {**asdict(spec), "spot": spec.spot.value, "labels": dict(spec.labels)}


def pool_spec_from_json(body: Mapping[str, Any]) -> PoolSpec:
    """What was said about a pool; what was not is as usual."""
    given = dict(body)
    if "places" in given:
        given["places"] = tuple(Place(**place) for place in given["places"])
    if "machine_types" in given:
        given["machine_types"] = tuple(given["machine_types"])
    if "spot" in given:
        given["spot"] = SpotUse(given["spot"])
    return PoolSpec(**given)


def pool_from_row(row: Row) -> Pool:
    """A row of the table of pools."""
    return Pool(
        name=row["name"],
        spec=pool_spec_from_json(row["spec"]),
        implicit=row["implicit"],
        generation=row["generation"],
        create_time=row["create_time"],
    )


def instance_from_row(row: Row) -> Instance:
    """A row of the table of instances."""
    return Instance(
        instance_id=InstanceId(row["id"]),
        pool=row["pool"],
        state=InstanceState(row["state"]),
        offer=offer_from_json(row["offer"]),
        key=row["key"],
        cloud_id=row["cloud_id"],
        agent_id=None if row["agent_id"] is None else AgentId(row["agent_id"]),
        reason=row["reason"],
        message=row["message"],
        create_time=row["create_time"],
        launch_time=row["launch_time"],
        join_time=row["join_time"],
        idle_time=row["idle_time"],
        release_time=row["release_time"],
        end_time=row["end_time"],
        expire_time=row["expire_time"],
    )
