"""A machine that is rented for a task is one that the task then runs on; else machines would be rented without end."""

from __future__ import annotations

from typing import TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st

from styx_server.core.machines.book import OfferBook
from styx_server.core.machines.choose import nothing_blocked, rank
from styx_server.core.machines.infra import Contradiction, needs_of
from styx_server.core.machines.instance import InstanceId
from styx_server.core.machines.needs import MachineWish, SpotUse
from styx_server.core.machines.offer import MachineSize, Offer, Place
from styx_server.core.machines.pool import PoolSpec
from styx_server.core.placement.capacity import AgentSlots, Capacity, Gpu, as_sold
from styx_server.core.placement.machine import PoolSays, machine_kind
from styx_server.core.task import AgentId, Resources, Shape
from styx_server.services.machines.intents import machine_labels
from tests.support.builders import GIB

T = TypeVar("T")


def mostly(usual: T, otherwise: st.SearchStrategy[T]) -> st.SearchStrategy[T]:
    """So that a wish that says much is not always one that nothing meets."""
    return st.one_of(st.just(usual), st.just(usual), otherwise)


PLACES = st.builds(
    Place,
    provider=st.sampled_from(["aws", "gcp"]),
    region=st.sampled_from(["us-east-1", "eu-west-1"]),
    zone=st.sampled_from(["", "a", "b"]),
)
WANTED_PLACES = st.builds(
    Place,
    provider=st.sampled_from(["", "aws", "gcp", "static"]),
    region=st.sampled_from(["", "us-east-1"]),
    zone=st.sampled_from(["", "a"]),
)
TYPES = st.sampled_from(["small", "large"])
SPOTS = st.sampled_from(list(SpotUse))
GPUS = st.sampled_from([("", 0, 0), ("L4", 1, 24 * GIB), ("A100-80GB", 8, 80 * GIB), ("H100", 8, 80 * GIB)])
OFFERS = st.builds(
    lambda place, machine_type, spot, gpus, cpus, arch, price: Offer(
        place=place,
        machine_type=machine_type,
        spot=spot,
        price_micros=price,
        size=MachineSize(
            cpus_milli=1000 * cpus,
            memory_bytes=4 * cpus * GIB,
            gpu_name=gpus[0],
            gpu_count=gpus[1],
            gpu_memory_bytes=gpus[2],
            arch=arch,
        ),
    ),
    place=PLACES,
    machine_type=TYPES,
    spot=st.booleans(),
    gpus=GPUS,
    cpus=st.sampled_from([1, 4, 16]),
    arch=st.sampled_from(["x86_64", "arm64"]),
    price=st.integers(1, 10),
)
NO_PLACES: tuple[Place, ...] = ()
NO_TYPES: tuple[str, ...] = ()
NO_LABELS: tuple[tuple[str, str], ...] = ()
WISHES = st.builds(
    MachineWish,
    cpus_exact=mostly(False, st.just(True)),
    memory_exact=mostly(False, st.just(True)),
    gpu_memory_bytes=st.sampled_from([0, 20 * GIB, 80 * GIB]),
    places=mostly(NO_PLACES, st.lists(WANTED_PLACES, max_size=2).map(tuple)),
    machine_types=mostly(NO_TYPES, st.lists(TYPES, max_size=1).map(tuple)),
    arch=mostly("", st.sampled_from(["x86_64", "arm64"])),
    spot=st.none() | SPOTS,
    max_price_micros=st.none() | st.integers(1, 10),
)
NEEDS = st.builds(
    Resources,
    cpus_milli=st.sampled_from([0, 1000, 4000]),
    memory_bytes=st.sampled_from([0, 4 * GIB]),
    gpu_count=st.integers(0, 2),
    gpu_name=mostly("", st.sampled_from(["L4", "a100"])),
    labels=mostly(NO_LABELS, st.just((("team", "blue"),))),
)
POOLS = st.builds(
    PoolSpec,
    spot=SPOTS,
    places=mostly(NO_PLACES, st.lists(WANTED_PLACES, max_size=1).map(tuple)),
    machine_types=mostly(NO_TYPES, st.lists(TYPES, max_size=1).map(tuple)),
    labels=st.just({"team": "blue"}),
)


def agent_on(offer: Offer, pool: PoolSpec) -> AgentSlots:
    """The agent of a machine that was rented so: it offers what it is told, and is told no memory of accelerators."""
    size = offer.size
    labels = {**pool.labels, **machine_labels(InstanceId(1), offer)}
    kind = machine_kind(labels, {}, PoolSays(spot=pool.spot, types=bool(pool.machine_types)))
    gpus = tuple(Gpu(index=index, name=size.gpu_name) for index in range(size.gpu_count))
    total = Capacity(cpus_milli=size.cpus_milli, memory_bytes=size.memory_bytes, gpus=gpus)
    return AgentSlots(agent_id=AgentId(1), pool="p", labels=labels, total=as_sold(total, kind), kind=kind)


@settings(max_examples=300)
@given(need=NEEDS, wish=WISHES, pool=POOLS, offers=st.lists(OFFERS, min_size=1, max_size=12))
def test_what_is_rented_for_a_task_is_what_it_runs_on(
    need: Resources, wish: MachineWish, pool: PoolSpec, offers: list[Offer]
) -> None:
    try:
        needs = needs_of(need, wish, pool)
    except Contradiction:
        return
    shape = Shape(pool="p", resources=need, machine=wish)
    for choice in rank([needs], OfferBook(offers), nothing_blocked, most=12).choices:
        agent = agent_on(choice.offer, pool)
        assert agent.lacks(shape) == "", choice.offer
        assert agent.fits_now(shape)
