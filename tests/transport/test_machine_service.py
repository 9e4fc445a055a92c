"""Pools and rented machines on a real port."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from styx.v1 import machines_pb2, tasks_pb2
from styx.v1 import styx_service_pb2 as wire
from styx_server.core.machines.instance import InstanceState
from styx_server.core.machines.offer import MachineSize, Place
from tests.support.builders import GIB
from tests.support.rented import a_machine, an_offer
from tests.transport.conftest import Port
from tests.transport.test_public_service import Client, refusal

State = machines_pb2.Instance.State


@pytest.fixture
def client(port: Port) -> Client:
    return Client(port)


def a_spec() -> machines_pb2.PoolSpec:
    spec = machines_pb2.PoolSpec(
        min_machines=1,
        max_machines=4,
        spot=tasks_pb2.SPOT_WITH_FALLBACK,
        infra=["aws/us-east-1", "gcp/*/us-central1-a"],
        machine_types=["g6.xlarge"],
        max_hourly_cost=2.5,
        image="ami-1",
        labels={"team": "vision"},
        disk_bytes=2**36,
    )
    spec.idle_timeout.FromSeconds(60)
    spec.max_life.FromSeconds(86_400)
    return spec


async def test_a_pool_is_shown_as_it_was_made_changed_and_deleted(client: Client) -> None:
    made = await client.CreatePool(wire.CreatePoolRequest(name="gpu", spec=a_spec()))
    assert (made.name, made.spec, made.generation, made.implicit) == ("gpu", a_spec(), 1, False)
    change = wire.UpdatePoolRequest(name="gpu", spec=machines_pb2.PoolSpec(max_machines=0), generation=1)
    change.update_mask.paths.extend(["max_machines", "min_machines", "max_hourly_cost"])
    changed = await client.UpdatePool(change)
    assert (changed.spec.max_machines, changed.spec.min_machines, changed.generation) == (0, 0, 2)
    assert not changed.spec.HasField("max_hourly_cost")
    assert changed.spec.labels == {"team": "vision"}
    assert (await refusal(client.UpdatePool(change)))[:2] == ("FAILED_PRECONDITION", "POOL_CHANGED")
    await client.DeletePool(wire.DeletePoolRequest(name="gpu"))
    assert (await refusal(client.GetPool(wire.GetPoolRequest(name="gpu"))))[:2] == ("NOT_FOUND", "POOL_NOT_FOUND")


async def test_what_is_unset_in_a_new_pool_is_as_usual(client: Client) -> None:
    spec = (await client.CreatePool(wire.CreatePoolRequest(name="plain"))).spec
    assert (spec.max_machines, spec.idle_timeout.seconds, spec.max_life.seconds) == (10, 300, 7 * 86_400)
    assert spec.spot == tasks_pb2.ON_DEMAND


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (wire.CreatePoolRequest(name="Bad Name"), ["name"]),
        (wire.CreatePoolRequest(name="a", spec=machines_pb2.PoolSpec(infra=["awz"])), ["spec.infra[0]"]),
        (wire.CreatePoolRequest(name="a", spec=machines_pb2.PoolSpec(min_machines=99)), ["spec.min_machines"]),
        (wire.CreatePoolRequest(name="a", spec=machines_pb2.PoolSpec(max_hourly_cost=-1)), ["spec.max_hourly_cost"]),
        (
            wire.CreatePoolRequest(name="a", spec=machines_pb2.PoolSpec(max_hourly_cost=float("nan"))),
            ["spec.max_hourly_cost"],
        ),
        (
            wire.CreatePoolRequest(name="a", spec=machines_pb2.PoolSpec(spot=77)),  # type: ignore[arg-type]
            ["spec.spot"],
        ),
        (wire.CreatePoolRequest(name="a", request_id="x" * 65), ["request_id"]),
    ],
)
async def test_a_bad_pool_is_refused_with_its_fields(client: Client, request_: Any, fields: list[str]) -> None:
    assert await refusal(client.CreatePool(request_)) == ("INVALID_ARGUMENT", "INVALID_ARGUMENT_FIELD", fields)


async def test_a_change_of_nothing_or_of_an_unknown_field_is_refused(client: Client) -> None:
    nothing = wire.UpdatePoolRequest(name="default")
    assert (await refusal(client.UpdatePool(nothing)))[2] == ["update_mask"]
    nothing.update_mask.paths.append("max_machine")
    assert (await refusal(client.UpdatePool(nothing)))[2] == ["update_mask"]


async def test_pools_come_in_pages_by_name(client: Client) -> None:
    for name in ("b", "a", "c"):
        await client.CreatePool(wire.CreatePoolRequest(name=name, request_id=name))
    again = await client.CreatePool(wire.CreatePoolRequest(name="a", request_id="a"))
    assert again.name == "a"
    names, token = [], ""
    while True:
        page = await client.ListPools(wire.ListPoolsRequest(page_size=2, page_token=token))
        names += [pool.name for pool in page.pools]
        token = page.next_page_token
        if not token:
            break
    assert names == ["a", "b", "c", "default"]
    wrong = wire.ListPoolsRequest(page_token="bm9uc2Vuc2U")
    assert (await refusal(client.ListPools(wrong)))[:2] == ("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID")


async def test_rented_machines_are_listed_newest_first_and_filtered(client: Client, port: Port) -> None:
    await a_machine(port.server, 1, InstanceState.TERMINATED)
    await a_machine(port.server, 2, InstanceState.READY, pool="gpu")
    size = MachineSize(cpus_milli=8000, memory_bytes=32 * GIB, gpu_name="L4", gpu_count=1, gpu_memory_bytes=24 * GIB)
    offer = an_offer(place=Place(provider="aws", region="us-east-1"), size=size, spot=True, price_micros=250_000)
    await a_machine(port.server, 3, InstanceState.INTENT, offer=offer)

    async def ids(**fields: Any) -> list[str]:
        found = await client.ListInstances(wire.ListInstancesRequest(**fields))
        return [instance.id for instance in found.instances]

    assert await ids() == ["i3", "i2"]
    assert await ids(include_ended=True) == ["i3", "i2", "i1"]
    assert await ids(filter="pool=gpu AND state=READY,DRAINING") == ["i2"]
    assert await ids(filter="provider!=fake") == ["i3"]
    assert await ids(filter="state=TERMINATED") == []
    assert (await refusal(ids(filter="pol=gpu")))[:2] == ("INVALID_ARGUMENT", "FILTER_INVALID")
    first = await client.ListInstances(wire.ListInstancesRequest(page_size=1, include_ended=True))
    assert [each.id for each in first.instances] == ["i3"]
    following = wire.ListInstancesRequest(page_size=5, include_ended=True, page_token=first.next_page_token)
    assert [each.id for each in (await client.ListInstances(following)).instances] == ["i2", "i1"]
    assert (await refusal(ids(page_token=first.next_page_token)))[1] == "PAGE_TOKEN_INVALID"


async def test_one_machine_shows_what_it_is_and_what_it_cost(client: Client, port: Port) -> None:
    await a_machine(port.server, 7, InstanceState.TERMINATED, hours=2.5)
    instance = await client.GetInstance(wire.GetInstanceRequest(instance_id="i7"))
    assert (instance.state, instance.cloud_id, instance.key) == (State.TERMINATED, "cloud-7", "styx-test-7")
    assert (instance.offer.provider, instance.offer.cpus, instance.offer.machine_type) == ("fake", 4.0, "m4")
    assert instance.cost_micros == 2_500_000
    (price,) = instance.prices
    assert price.end_time.ToDatetime() - price.start_time.ToDatetime() == timedelta(hours=2.5)
    missing = wire.GetInstanceRequest(instance_id="8")
    assert (await refusal(client.GetInstance(missing)))[:2] == ("NOT_FOUND", "INSTANCE_NOT_FOUND")
    assert (await refusal(client.GetInstance(wire.GetInstanceRequest(instance_id="x"))))[2] == ["instance_id"]


async def test_a_bad_way_to_give_a_machine_back_is_refused(client: Client) -> None:
    request = wire.TerminateInstanceRequest(instance_id="i1")
    assert (await refusal(client.TerminateInstance(request)))[1] == "INSTANCE_NOT_FOUND"
    request.deadline.FromSeconds(-1)
    assert (await refusal(client.TerminateInstance(request)))[2] == ["deadline"]
    request.deadline.FromSeconds(1)
    request.now = True
    assert (await refusal(client.TerminateInstance(request)))[2] == ["deadline"]
