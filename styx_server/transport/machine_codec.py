"""Messages about pools, rented machines, offers and costs to values and back, as `codec.py` does it for tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

from styx.v1 import machines_pb2, tasks_pb2
from styx_server.core.errors import InvalidRequest, Violation
from styx_server.core.machines.cost import PriceInterval
from styx_server.core.machines.infra import parse_infra
from styx_server.core.machines.instance import InstanceId
from styx_server.core.machines.needs import SpotUse
from styx_server.core.machines.offer import MICROS, Offer, Place
from styx_server.core.machines.pool import DEFAULT_IDLE_SECONDS, DEFAULT_LIFE_SECONDS, DEFAULT_MAX_MACHINES, PoolSpec
from styx_server.services.instance_views import InstanceView
from styx_server.services.pools import PoolView
from styx_server.transport import codec

_MAX_DOLLARS: Final = 1e12

_SPOT: Final[dict[SpotUse, tasks_pb2.SpotUse]] = {
    SpotUse.NEVER: tasks_pb2.ON_DEMAND,
    SpotUse.ONLY: tasks_pb2.SPOT,
    SpotUse.PREFER: tasks_pb2.SPOT_WITH_FALLBACK,
    SpotUse.ANY: tasks_pb2.ANY,
}
_SPOT_USE: Final[Mapping[int, SpotUse]] = {number: use for use, number in _SPOT.items()}

# Each field of the message, and the field of the value that it stands for.
POOL_FIELDS: Final[Mapping[str, str]] = {
    "min_machines": "min_machines",
    "max_machines": "max_machines",
    "idle_timeout": "idle_seconds",
    "spot": "spot",
    "infra": "places",
    "machine_types": "machine_types",
    "max_hourly_cost": "max_price_micros",
    "image": "image",
    "labels": "labels",
    "disk_bytes": "disk_bytes",
    "max_life": "life_seconds",
}


def instance_id(text: str) -> InstanceId:
    """Reads `i9` or `9`."""
    return InstanceId(codec.number(text, "i", "instance_id"))


def places(texts: Sequence[str], field: str) -> tuple[Place, ...]:
    """Reads infra strings.

    Raises:
        InvalidRequest: one of them cannot be read.
    """
    found: list[Place] = []
    violations: list[Violation] = []
    for index, text in enumerate(texts):
        try:
            found.append(parse_infra(text))
        except ValueError as error:
            violations.append(Violation(field=f"{field}[{index}]", description=str(error)))
    if violations:
        raise InvalidRequest(violations)
    return tuple(found)


def spot_use(number: int, field: str) -> SpotUse | None:
    """Whether spot is wanted; None: nothing is said."""
    if number and number not in _SPOT_USE:
        raise InvalidRequest([Violation(field=field, description=f"is {number}, which is no way to use spot")])
    return _SPOT_USE.get(number)


def pool_spec(message: machines_pb2.PoolSpec) -> PoolSpec:
    """What is said about a pool; not yet judged.

    Raises:
        InvalidRequest: a place or a number cannot be read.
    """
    idle, life = codec.duration_seconds(message, "idle_timeout"), codec.duration_seconds(message, "max_life")
    return PoolSpec(
        min_machines=message.min_machines,
        max_machines=message.max_machines if message.HasField("max_machines") else DEFAULT_MAX_MACHINES,
        idle_seconds=DEFAULT_IDLE_SECONDS if idle is None else idle,
        spot=spot_use(message.spot, "spec.spot") or SpotUse.NEVER,
        places=places(message.infra, "spec.infra"),
        machine_types=tuple(message.machine_types),
        max_price_micros=_max_price(message),
        image=message.image,
        labels=dict(message.labels),
        disk_bytes=message.disk_bytes,
        life_seconds=DEFAULT_LIFE_SECONDS if life is None else life,
    )


def pool(view: PoolView) -> machines_pb2.Pool:
    """One pool."""
    return machines_pb2.Pool(
        name=view.pool.name,
        spec=pool_spec_message(view.pool.spec),
        implicit=view.pool.implicit,
        generation=view.pool.generation,
        create_time=codec.timestamp(view.pool.create_time),
        agent_count=view.agents,
        instance_count=view.instances,
        hourly_price_micros=view.price_micros,
    )


def pool_spec_message(spec: PoolSpec) -> machines_pb2.PoolSpec:
    """What is said about a pool."""
    return machines_pb2.PoolSpec(
        min_machines=spec.min_machines,
        max_machines=spec.max_machines,
        idle_timeout=codec.duration(spec.idle_seconds),
        spot=_SPOT[spec.spot],
        infra=[str(place) for place in spec.places],
        machine_types=spec.machine_types,
        max_hourly_cost=None if spec.max_price_micros is None else spec.max_price_micros / MICROS,
        image=spec.image,
        labels=spec.labels,
        disk_bytes=spec.disk_bytes,
        max_life=codec.duration(spec.life_seconds),
    )


def offer(value: Offer) -> machines_pb2.Offer:
    """Something that can be rented."""
    return machines_pb2.Offer(
        provider=value.place.provider,
        region=value.place.region,
        zone=value.place.zone,
        machine_type=value.machine_type,
        spot=value.spot,
        hourly_price_micros=value.price_micros,
        cpus=value.size.cpus_milli / 1000,
        memory_bytes=value.size.memory_bytes,
        gpu_name=value.size.gpu_name,
        gpu_count=value.size.gpu_count,
        gpu_memory_bytes=value.size.gpu_memory_bytes,
        arch=value.size.arch,
        estimate=value.estimate,
    )


def instance(view: InstanceView, *, with_prices: bool) -> machines_pb2.Instance:
    """One rented machine."""
    value = view.instance
    return machines_pb2.Instance(
        id=f"i{value.instance_id}",
        pool=value.pool,
        state=int(value.state),  # type: ignore[arg-type]
        reason=value.reason,
        message=value.message,
        offer=offer(value.offer),
        cloud_id=value.cloud_id,
        key=value.key,
        agent_id=codec.agent_name(value.agent_id),
        create_time=codec.timestamp(value.create_time),
        launch_time=codec.timestamp(value.launch_time),
        join_time=codec.timestamp(value.join_time),
        idle_time=codec.timestamp(value.idle_time),
        release_time=codec.timestamp(value.release_time),
        end_time=codec.timestamp(value.end_time),
        expire_time=codec.timestamp(value.expire_time),
        cost_micros=view.cost_micros,
        prices=[_price(price) for price in view.prices] if with_prices else (),
    )


def _price(price: PriceInterval) -> machines_pb2.PriceInterval:
    return machines_pb2.PriceInterval(
        start_time=codec.timestamp(price.start_time),
        end_time=codec.timestamp(price.end_time),
        hourly_price_micros=price.price_micros,
    )


def _max_price(message: machines_pb2.PoolSpec) -> int | None:
    if not message.HasField("max_hourly_cost"):
        return None
    dollars = message.max_hourly_cost
    if not (math.isfinite(dollars) and 0 <= dollars <= _MAX_DOLLARS):
        text = f"is {dollars:g}, must be a number of US dollars, 0 or more; leave it out for no limit"
        raise InvalidRequest([Violation(field="spec.max_hourly_cost", description=text)])
    return round(dollars * MICROS)
