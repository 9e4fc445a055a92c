"""What tasks say of their machine: who gets which, and what alternatives do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from styx_server.core.machines.infra import parse_infra
from styx_server.core.machines.needs import MachineWish, SpotUse
from styx_server.core.machines.offer import Place
from styx_server.core.placement.capacity import Gpu
from styx_server.core.placement.fleet import Fleet
from styx_server.core.placement.machine import MachineKind, PoolSays, machine_kind
from styx_server.core.placement.plan import Plan, plan_round
from styx_server.core.states import Reason
from styx_server.core.task import Resources, Shape, any_shape_of
from tests.core.test_plan import a_backlog
from tests.support.builders import GIB, a_capacity, a_shape, a_waiting, some_gpus, some_slots

L4 = Place(provider="gcp", region="us-central1", zone="us-central1-a")
RENTED = MachineKind(place=L4, machine_type="g2-standard-4", arch="x86_64")
SPOT = MachineKind(place=L4, machine_type="g2-standard-4", arch="x86_64", spot=True)
ARM = MachineKind(place=Place(provider="aws", region="us-east-1"), machine_type="t4g.small", arch="arm64")
OWN = MachineKind(arch="arm64")


def wish(*infra: str, **says: Any) -> MachineWish:
    return MachineWish(places=tuple(parse_infra(text) for text in infra), **says)


def wanting(says: MachineWish, **need: Any) -> Shape:
    return Shape(pool="default", resources=Resources(**need), machine=says)


@pytest.mark.parametrize(
    ("says", "kind", "lack"),
    [
        (wish(), RENTED, ""),
        (wish(), OWN, ""),
        (wish("gcp"), RENTED, ""),
        (wish("gcp/us-central1"), RENTED, ""),
        (wish("aws", "gcp/*/us-central1-a"), RENTED, ""),
        (wish("*/us-central1"), RENTED, ""),
        (wish("gcp/*/us-central1-b"), RENTED, "place gcp/*/us-central1-b"),
        (wish("aws", "gcp/us-east1"), RENTED, "place aws or 1 more"),
        (wish("static"), OWN, ""),
        (wish("static"), RENTED, "place static"),
        (wish("gcp"), OWN, "place gcp"),
        (wish(machine_types=("g2-standard-4", "g6.xlarge")), RENTED, ""),
        (wish(machine_types=("g6.xlarge",)), RENTED, "machine type g6.xlarge"),
        (wish(machine_types=("g6.xlarge",)), OWN, "machine type g6.xlarge"),
        (wish(arch="arm64"), OWN, ""),
        (wish(arch="arm64"), RENTED, "architecture arm64"),
        (wish(arch="x86_64"), MachineKind(), "architecture x86_64"),
        # Who says nothing is given what would be rented for him, but may run on any machine that joined by itself.
        (wish(), ARM, "architecture x86_64"),
        (wish(arch="arm64"), ARM, ""),
        (wish(machine_types=("t4g.small",)), ARM, ""),
        (wish(), replace(ARM, pool=PoolSays(types=True)), ""),
        # Exact sizes and prices say what to rent; a machine that is there is not asked.
        (wish(cpus_exact=True, memory_exact=True, max_price_micros=1), RENTED, ""),
    ],
)
def test_a_machine_meets_a_wish_or_says_what_it_lacks(says: MachineWish, kind: MachineKind, lack: str) -> None:
    assert some_slots(kind=kind).lacks(wanting(says)) == lack


@pytest.mark.parametrize("pool_says", list(SpotUse))
@pytest.mark.parametrize("says", [None, *SpotUse])
def test_only_who_wants_it_gets_a_machine_that_may_be_taken_back(says: SpotUse | None, pool_says: SpotUse) -> None:
    spot = MachineKind(place=L4, spot=True, pool=PoolSays(spot=pool_says))
    kept = MachineKind(place=L4, pool=PoolSays(spot=pool_says))
    shape = wanting(wish(spot=says))
    assert (some_slots(kind=spot).lacks(shape) == "") == ((says or pool_says) is not SpotUse.NEVER)
    # What a pool prefers to rent is no reason to leave a machine idle that it has.
    assert (some_slots(kind=kept).lacks(shape) == "") == (says is not SpotUse.ONLY)


def test_a_kind_is_made_of_what_the_server_gave_and_not_of_what_the_agent_says() -> None:
    given_by_server = {
        "styx/provider": "gcp",
        "styx/region": "us-central1",
        "styx/zone": "us-central1-a",
        "styx/machine-type": "g2-standard-4",
        "styx/spot": "true",
        "styx/arch": "x86_64",
        "team": "blue",
    }
    assert machine_kind(given_by_server, {"arch": "aarch64", "styx/spot": "false"}, PoolSays()) == SPOT
    assert machine_kind({"team": "blue"}, {"arch": "aarch64"}, PoolSays()) == OWN
    assert machine_kind({}, {}, PoolSays(spot=SpotUse.ANY)) == MachineKind(pool=PoolSays(spot=SpotUse.ANY))


def test_accelerators_are_counted_and_given_by_their_memory_too() -> None:
    large = some_gpus("NVIDIA A100-SXM4-80GB", "NVIDIA A100-SXM4-80GB")
    small = tuple(Gpu(index=index, name="Tesla T4", memory_bytes=16 * GIB) for index in (2, 3))
    agent = some_slots(total=a_capacity(gpus=(*small, *large)))
    shape = wanting(wish(gpu_memory_bytes=40 * GIB), gpu_count=2)
    assert agent.lacks(wanting(wish(gpu_memory_bytes=40 * GIB), gpu_count=3)) == "3 gpus of 40 GiB"
    assert agent.lacks(shape) == ""
    assert agent.take(shape) == (0, 1)
    assert not agent.fits_now(shape)
    assert agent.fits_now(a_shape(gpu_count=2))


def run(fleet: Fleet, *shapes: Shape) -> Plan:
    tasks = [a_waiting(number, shape=shape) for number, shape in enumerate(shapes, 1)]
    return plan_round(a_backlog(*tasks), fleet, {}, limit=100, now=0.0)


def a_fleet() -> Fleet:
    """a1: two cores; a2: eight cores."""
    fleet = Fleet()
    for number, cpus in ((1, 2), (2, 8)):
        fleet.put(some_slots(number, total=a_capacity(cpus=cpus)), {})
    return fleet


def either(*cpus: int, ordered: bool = False) -> Shape:
    return any_shape_of([a_shape(cpus_milli=1000 * count) for count in cpus], ordered=ordered)


def test_what_is_reserved_is_the_alternative_that_was_placed() -> None:
    plan = run(a_fleet(), *[either(6, 2, ordered=True)] * 4)
    taken = [(item.reservation.agent_id, item.alternative, item.reservation.resources) for item in plan.placements]
    assert taken == [
        (2, 0, Resources(cpus_milli=6000)),
        (1, 1, Resources(cpus_milli=2000)),
        (2, 1, Resources(cpus_milli=2000)),
    ]
    [(reason, text)] = plan.blocked.values()
    assert reason is Reason.CAPACITY
    assert text.startswith("alternative 1: 1 agent fits, 1 of them taking work")
    assert "alternative 2: 2 agents fit" in text


def test_a_shape_without_alternatives_names_none() -> None:
    [placement] = run(a_fleet(), a_shape()).placements
    assert placement.alternative is None


def test_room_now_for_a_later_alternative_comes_before_waiting_for_an_earlier_one() -> None:
    fleet = Fleet()
    busy = some_slots(1, queues=True)
    busy.pace.note(1000, 0.0)
    busy.free_cpus_milli = 0
    fleet.put(busy, {})
    fleet.put(some_slots(2, total=a_capacity(cpus=1)), {})
    found = fleet.place(either(2, 1, ordered=True), 0.0)
    assert found is not None
    assert (found[0].agent_id, found[1]) == (2, 1)
    found[0].take(a_shape())
    found = fleet.place(either(2, 1, ordered=True), 0.0)
    assert found is not None
    assert (found[0].agent_id, found[1]) == (1, 0)


def test_alternatives_that_nobody_has_say_what_each_lacks() -> None:
    shape = any_shape_of(
        [wanting(wish("aws")), wanting(wish("gcp")), a_shape(gpu_count=8), a_shape(gpu_count=9)], ordered=False
    )
    [(reason, text)] = run(a_fleet(), shape).blocked.values()
    assert reason is Reason.NO_MATCH
    assert "alternative 1: no agent can ever run it: of 2 agents 2 lack place aws" in text
    assert text.endswith("; and 1 more")


def test_what_is_impossible_is_not_told_while_something_is_possible() -> None:
    fleet = a_fleet()
    shape = any_shape_of([wanting(wish("aws")), a_shape(cpus_milli=8000)], ordered=False)
    plan = run(fleet, shape, shape)
    assert [item.reservation.agent_id for item in plan.placements] == [2]
    [(reason, text)] = plan.blocked.values()
    assert reason is Reason.CAPACITY
    assert "aws" not in text


KINDS = st.sampled_from([RENTED, SPOT, ARM, OWN, MachineKind()])
WISHES = st.builds(
    MachineWish,
    places=st.lists(st.sampled_from([parse_infra(text) for text in ("gcp", "aws", "static", "*/us-central1")])).map(
        tuple
    ),
    spot=st.sampled_from([None, *SpotUse]),
    arch=st.sampled_from(["", "x86_64", "arm64"]),
)
ONE = st.builds(wanting, WISHES, cpus_milli=st.sampled_from([0, 1000, 3000]))
SHAPES = st.one_of(ONE, st.lists(ONE, min_size=1, max_size=4).map(lambda each: any_shape_of(each, ordered=True)))


@given(kinds=st.lists(KINDS, max_size=5), shapes=st.lists(SHAPES, max_size=12))
def test_nobody_is_placed_where_he_must_not_and_nobody_who_fits_is_left(
    kinds: list[MachineKind], shapes: list[Shape]
) -> None:
    fleet = Fleet()
    for number, kind in enumerate(kinds, 1):
        fleet.put(some_slots(number, kind=kind), {})
    plan = run(fleet, *shapes)
    for placement in plan.placements:
        chosen = placement.task.shape.choices[placement.alternative or 0]
        assert placement.reservation.resources == chosen.resources
        assert fleet.agents[placement.reservation.agent_id].lacks(chosen) == ""
    for shape in plan.blocked:
        for agent in fleet.agents.values():
            assert not any(not agent.lacks(choice) and agent.fits_now(choice) for choice in shape.choices)
    placed = {placement.task.task_id for placement in plan.placements}
    assert all(shape in plan.blocked for number, shape in enumerate(shapes, 1) if number not in placed)
