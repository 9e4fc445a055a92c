"""How many machines a pool should have."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from styx_server.core.machines.instance import InstanceId, InstanceState
from styx_server.core.machines.offer import MachineSize, Offer, Place
from styx_server.core.machines.pool import PoolSpec
from styx_server.core.machines.scale import (
    Choice,
    Demand,
    Leave,
    Rent,
    Room,
    ScalePlan,
    Standing,
    fits_at_once,
    plan_machines,
)
from styx_server.core.task import Resources, Shape, any_shape_of

S = InstanceState
TWO = MachineSize(cpus_milli=2000, memory_bytes=8 << 30)
OFFER = Offer(
    place=Place(provider="p", region="r", zone="z"), machine_type="two", size=TWO, spot=False, price_micros=100
)
ONE_CORE = Shape(pool="default", resources=Resources(cpus_milli=1000))
POOL = {"default": PoolSpec()}


@dataclass
class OneOffer:
    """A market with one kind of machine."""

    offer: Offer = OFFER
    has: bool = True
    refused: str = ""
    asked: list[int] = field(default_factory=list)

    def cover(self, shape: Shape, pool: PoolSpec, count: int, room: Room) -> Choice:
        del pool
        self.asked.append(count)
        each = max(fits_at_once(choice.resources, self.offer.size) for choice in shape.choices)
        if not self.has or not each:
            return Choice(offers=(), words="nothing fits")
        return Choice(offers=[self.offer] * min(room.machines, -(-count // each)), words="renting")

    def suits(self, offer: Offer, shape: Shape, pool: PoolSpec) -> bool:
        del pool
        return offer == self.offer and fits_at_once(shape.resources, offer.size) > 0

    def any_of(self, pool: PoolSpec) -> Choice:
        del pool
        return Choice(offers=[self.offer] if self.has else [], words="")

    def tried(self, shape: Shape, pool: PoolSpec) -> str:
        del pool, shape
        return self.refused


def standing(number: int = 1, state: InstanceState = S.READY, **changes: Any) -> Standing:
    return Standing(instance_id=InstanceId(number), pool="default", offer=OFFER, state=state, **changes)


def wants(count: int = 1, shape: Shape = ONE_CORE, **changes: Any) -> Demand:
    return Demand(shape=shape, count=count, **changes)


def plan(
    demands: list[Demand], machines: list[Standing] | None = None, spec: PoolSpec | None = None, **market: Any
) -> ScalePlan:
    return plan_machines({"default": spec or PoolSpec()}, demands, machines or [], OneOffer(**market))


@pytest.mark.parametrize(("count", "machines"), [(1, 1), (2, 1), (3, 2), (4, 2), (1000, 10)])
def test_as_many_as_the_work_needs_and_the_pool_may_have(count: int, machines: int) -> None:
    assert plan([wants(count)]).rents == [Rent("default", OFFER)] * machines


@pytest.mark.parametrize("state", [S.INTENT, S.CREATING, S.LAUNCHED])
def test_what_is_on_its_way_counts_as_if_it_were_there(state: InstanceState) -> None:
    result = plan([wants(3)], [standing(state=state)])
    assert len(result.rents) == 1
    assert result.words[ONE_CORE] == "i1, two in p/r/z for $0.0001/h is on the way; renting"
    assert plan([wants(2)], [standing(state=state)]).rents == []


def test_who_waits_for_a_machine_that_is_on_its_way_is_told_what_was_refused_before() -> None:
    result = plan([wants(1)], [standing(state=S.LAUNCHED)], refused="tried before: elsewhere")
    assert result.words[ONE_CORE] == "i1, two in p/r/z for $0.0001/h is on the way; tried before: elsewhere"
    assert not result.hopeless


def test_one_that_has_just_joined_is_given_time_to_take_its_first_work() -> None:
    assert plan([wants(2)], [standing(joined_seconds=1.0)]).rents == []
    assert len(plan([wants(2)], [standing(joined_seconds=11.0)]).rents) == 1


def test_two_shapes_share_what_is_on_its_way() -> None:
    other = Shape(pool="default", resources=Resources(cpus_milli=500))
    result = plan([wants(1), wants(2, other)], [standing(state=S.LAUNCHED)])
    assert result.rents == []
    assert len(plan([wants(1), wants(3, other)], [standing(state=S.LAUNCHED)]).rents) == 1


def test_a_machine_on_its_way_for_any_alternative_is_enough() -> None:
    either = any_shape_of([Shape(pool="default", resources=Resources(cpus_milli=64_000)), ONE_CORE], ordered=True)
    assert plan([wants(2, either)], [standing(state=S.LAUNCHED)]).rents == []
    assert len(plan([wants(3, either)], [standing(state=S.LAUNCHED)]).rents) == 1


def test_a_machine_has_the_disk_that_its_task_wants() -> None:
    shape = Shape(pool="default", resources=Resources(disk_bytes=7))
    assert plan([wants(1, shape)]).rents == [Rent("default", OFFER, 7)]


def test_machines_that_leave_count_for_the_limit_and_not_as_help() -> None:
    leaving = [standing(number, S.TERMINATING) for number in range(10)]
    result = plan([wants(1)], leaving)
    assert (result.rents, result.hopeless) == ([], {ONE_CORE})
    assert result.words[ONE_CORE] == "pool default has all 10 machines that it may have"


def test_where_agents_could_do_it_they_are_waited_for_a_moment() -> None:
    assert plan([wants(possible=True, waited_seconds=14.9)]).rents == []
    assert len(plan([wants(possible=True, waited_seconds=15.0)]).rents) == 1


def test_who_waits_in_vain_is_told_why() -> None:
    result = plan([wants()], has=False)
    assert (result.rents, result.words, result.hopeless) == ([], {ONE_CORE: "nothing fits"}, {ONE_CORE})


def test_the_price_of_the_whole_pool_has_a_limit() -> None:
    spec = PoolSpec(max_price_micros=250)
    assert len(plan([wants(100)], spec=spec).rents) == 2
    assert len(plan([wants(100)], [standing()], spec=spec).rents) == 1


def test_a_demand_for_a_pool_that_is_not_there_is_passed_over() -> None:
    assert plan([wants(shape=replace(ONE_CORE, pool="other"))]) == ScalePlan()


def test_a_minimum_is_kept_without_work_and_not_exceeded_by_it() -> None:
    spec = PoolSpec(min_machines=3)
    assert len(plan([], spec=spec).rents) == 3
    assert len(plan([wants(2)], spec=spec).rents) == 3
    assert len(plan([], [standing(state=S.CREATING), standing(2)], spec=spec).rents) == 1


def test_idle_machines_leave_the_dearest_first_down_to_the_minimum() -> None:
    dear = Standing(
        instance_id=InstanceId(9),
        pool="default",
        offer=replace(OFFER, price_micros=500),
        state=S.READY,
        idle_seconds=400,
    )
    machines = [standing(1, idle_seconds=300.0), dear, standing(2, idle_seconds=299.0)]
    assert [leave.instance_id for leave in plan([], machines).leaves] == [9, 1]
    assert [leave.instance_id for leave in plan([], machines, PoolSpec(min_machines=2)).leaves] == [9]
    assert plan([], machines, PoolSpec(min_machines=3)).leaves == []


def test_nothing_is_rented_for_what_machines_were_rented_in_vain() -> None:
    result = plan([wants(vain="i1 was in vain")])
    assert (result.rents, result.words[ONE_CORE], result.hopeless) == ([], "i1 was in vain", {ONE_CORE})


def test_one_that_has_just_joined_does_not_leave_while_something_waits_for_it() -> None:
    fresh = standing(joined_seconds=1.0, idle_seconds=1.0)
    spec = PoolSpec(idle_seconds=0.0)
    assert plan([wants()], [fresh], spec).leaves == []
    assert len(plan([], [fresh], spec).leaves) == 1


def test_one_that_has_lived_long_enough_leaves_and_is_replaced() -> None:
    result = plan([], [standing(expired=True)], PoolSpec(min_machines=1))
    assert result.leaves == [Leave(InstanceId(1), "expired", "it has lived for as long as it may")]
    assert result.rents == [Rent("default", OFFER)]


@given(
    counts=st.lists(st.integers(1, 40), max_size=6),
    sizes=st.lists(st.integers(1, 2000), min_size=6, max_size=6),
    states=st.lists(
        st.sampled_from([S.INTENT, S.CREATING, S.LAUNCHED, S.READY, S.DRAINING, S.TERMINATING]), max_size=12
    ),
    most=st.integers(0, 20),
)
def test_never_beyond_the_limit_and_never_twice_for_the_same_work(
    counts: list[int], sizes: list[int], states: list[InstanceState], most: int
) -> None:
    spec = PoolSpec(max_machines=most)
    demands = [
        wants(count, Shape(pool="default", resources=Resources(cpus_milli=size)))
        for count, size in zip(counts, sizes, strict=False)
    ]
    machines = [standing(number, state) for number, state in enumerate(states)]
    first = plan(demands, machines, spec)
    assert len(first.rents) + len(machines) <= max(most, len(machines))
    # What was wished for is on its way in the next round, and nothing more is wished for.
    later = [standing(100 + number, S.INTENT) for number, _ in enumerate(first.rents)]
    assert plan(demands, [*machines, *later], spec).rents == []
