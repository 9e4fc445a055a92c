"""Pools are made, changed and deleted as their operators say, and never deleted under somebody's feet."""

from __future__ import annotations

from dataclasses import replace

import pytest

from styx_server.core.errors import Conflict, InvalidRequest, NotFound, WrongState
from styx_server.core.machines.instance import InstanceState
from styx_server.core.machines.needs import SpotUse
from styx_server.core.machines.offer import Place
from styx_server.core.machines.pool import PoolSpec
from styx_server.services.pools import PoolChange
from styx_server.services.tasks import Mutation
from tests.support.rented import a_machine
from tests.support.server import ONCE, Server, gathered

SPEC = PoolSpec(
    min_machines=1,
    max_machines=4,
    idle_seconds=60,
    spot=SpotUse.PREFER,
    places=(Place(provider="aws", region="us-east-1"), Place(provider="gcp", zone="us-central1-a")),
    machine_types=("g6.xlarge",),
    max_price_micros=5_000_000,
    image="ami-1",
    labels={"team": "vision"},
    disk_bytes=2**36,
    life_seconds=86_400,
)
CREATE = Mutation(token_id=1, method="CreatePool", request_id="p1", digest=b"p" * 32)


async def test_a_pool_comes_back_as_it_was_made(server: Server) -> None:
    made = await server.app.desk.pools.create("gpu", SPEC, ONCE)
    found = await server.app.desk.pools.get("gpu")
    assert found == made
    assert (found.pool.spec, found.pool.generation, found.pool.implicit) == (SPEC, 1, False)
    assert (found.agents, found.instances, found.price_micros) == (0, 0, 0)


async def test_the_implicit_pool_is_there_from_the_start(server: Server) -> None:
    (view,) = await server.app.desk.pools.page("", 10)
    assert (view.pool.name, view.pool.spec, view.pool.implicit) == ("default", PoolSpec(), True)


async def test_the_same_request_makes_one_pool_and_another_one_is_told_of_it(server: Server) -> None:
    answers = await gathered([server.app.desk.pools.create("gpu", SPEC, CREATE) for _ in range(10)])
    assert {answer.pool.name for answer in answers} == {"gpu"}
    with pytest.raises(Conflict) as taken:
        await server.app.desk.pools.create("gpu", SPEC, ONCE)
    assert taken.value.reason == "POOL_EXISTS"
    with pytest.raises(Conflict) as reused:
        await server.app.desk.pools.create("gpu", SPEC, replace(CREATE, digest=b"q" * 32))
    assert reused.value.reason == "REQUEST_ID_REUSED"


async def test_only_the_fields_that_are_named_change(server: Server) -> None:
    await server.app.desk.pools.create("gpu", SPEC, ONCE)
    other = PoolSpec(max_machines=9, image="ami-2")
    changed = await server.app.desk.pools.update(
        PoolChange(name="gpu", spec=other, fields=frozenset({"max_machines"})), ONCE
    )
    assert changed.pool.spec == replace(SPEC, max_machines=9)
    assert changed.pool.generation == 2


async def test_a_change_is_judged_together_with_what_stays(server: Server) -> None:
    await server.app.desk.pools.create("gpu", SPEC, ONCE)
    change = PoolChange(name="gpu", spec=PoolSpec(max_machines=0), fields=frozenset({"max_machines"}))
    with pytest.raises(InvalidRequest) as caught:
        await server.app.desk.pools.update(change, ONCE)
    assert [violation.field for violation in caught.value.violations] == ["spec.min_machines"]
    assert (await server.app.desk.pools.get("gpu")).pool.generation == 1


async def test_who_is_late_is_told_so(server: Server) -> None:
    await server.app.desk.pools.create("gpu", SPEC, ONCE)
    change = PoolChange(name="gpu", spec=PoolSpec(), fields=frozenset({"image"}), generation=1)
    answers = await gathered([server.app.desk.pools.update(change, ONCE) for _ in range(5)])
    late = [answer for answer in answers if isinstance(answer, WrongState)]
    assert len(late) == 4
    assert {error.reason for error in late} == {"POOL_CHANGED"}


async def test_a_pool_is_not_deleted_while_something_is_there(server: Server) -> None:
    await server.app.desk.pools.create("gpu", SPEC, ONCE)
    await a_machine(server, 1, InstanceState.TERMINATING, pool="gpu")
    with pytest.raises(WrongState, match="1 rented machine") as caught:
        await server.app.desk.pools.delete("gpu", ONCE)
    assert caught.value.reason == "POOL_IN_USE"
    await server.rows("update instances set state = 7, end_time = now()")
    (task_id,) = await server.submit(pool="gpu")
    with pytest.raises(WrongState, match=f"task t{task_id} of it has not ended"):
        await server.app.desk.pools.delete("gpu", ONCE)
    await server.cancel(task_id)
    await server.app.desk.pools.delete("gpu", ONCE)
    with pytest.raises(NotFound):
        await server.app.desk.pools.get("gpu")


async def test_a_pool_with_agents_is_not_deleted(server: Server) -> None:
    await server.app.desk.pools.create("gpu", SPEC, ONCE)
    await server.join(pool="gpu")
    assert (await server.app.desk.pools.get("gpu")).agents == 1
    with pytest.raises(WrongState, match="1 agent"):
        await server.app.desk.pools.delete("gpu", ONCE)


async def test_the_implicit_pool_can_be_changed_and_not_deleted(server: Server) -> None:
    change = PoolChange(name="default", spec=PoolSpec(max_machines=3), fields=frozenset({"max_machines"}))
    assert (await server.app.desk.pools.update(change, ONCE)).pool.spec.max_machines == 3
    with pytest.raises(WrongState) as caught:
        await server.app.desk.pools.delete("default", ONCE)
    assert caught.value.reason == "POOL_IN_USE"


async def test_a_page_has_what_each_pool_has_now(server: Server) -> None:
    for name in ("a", "b", "c"):
        await server.app.desk.pools.create(name, SPEC, ONCE)
    await a_machine(server, 1, pool="b")
    await a_machine(server, 2, InstanceState.TERMINATED, pool="b")
    views = await server.app.desk.pools.page("a", 2)
    assert [(view.pool.name, view.instances, view.price_micros) for view in views] == [
        ("b", 1, 1_000_000),
        ("c", 0, 0),
    ]


async def test_a_delete_that_is_repeated_is_answered_alike(server: Server) -> None:
    await server.app.desk.pools.create("gpu", SPEC, ONCE)
    mutation = Mutation(token_id=1, method="DeletePool", request_id="d1", digest=b"d" * 32)
    await server.app.desk.pools.delete("gpu", mutation)
    await server.app.desk.pools.delete("gpu", mutation)
    with pytest.raises(NotFound):
        await server.app.desk.pools.delete("gpu", ONCE)
