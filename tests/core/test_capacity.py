"""What agents have and what is free of it: what is given back restores exactly what was taken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from styx_server.core.placement.capacity import AgentSlots, Capacity, Gpu, Reservation
from styx_server.core.placement.fleet import Fleet
from styx_server.core.task import Fence, Resources, Shape
from tests.support.builders import GIB, a_capacity, a_shape, some_gpus, some_slots


def free(agent: AgentSlots) -> tuple[int, int, int, tuple[Gpu, ...]]:
    return (agent.free_cpus_milli, agent.free_memory_bytes, agent.free_disk_bytes, tuple(agent.free_gpus))


def as_shape(need: Resources) -> Shape:
    return Shape(pool="default", resources=need)


def take(agent: AgentSlots, need: Resources) -> Reservation:
    indexes = agent.take(as_shape(need))
    return Reservation(agent_id=agent.agent_id, namespace="default", resources=need, gpu_indexes=indexes)


NEEDS = st.builds(
    Resources,
    cpus_milli=st.integers(0, 3000),
    memory_bytes=st.integers(0, 2**40),
    disk_bytes=st.integers(0, 2**40),
    gpu_count=st.integers(0, 3),
    gpu_name=st.sampled_from(["", "a100", "H100"]),
)
TOTAL = Capacity(
    cpus_milli=8000,
    memory_bytes=2**42,
    disk_bytes=2**42,
    gpus=some_gpus("NVIDIA A100-SXM4-80GB", "NVIDIA H100 PCIe", "NVIDIA A100-SXM4-80GB", "Tesla T4"),
)


@given(needs=st.lists(NEEDS, max_size=12), choices=st.lists(st.integers(0, 100), max_size=24))
def test_giving_back_restores_exactly_what_was_taken(needs: list[Resources], choices: list[int]) -> None:
    agent = some_slots(total=TOTAL)
    held: list[Reservation] = []
    wanted = list(needs)
    for choice in choices:
        if wanted and choice % 2:
            need = wanted.pop()
            if agent.fits_now(as_shape(need)):
                held.append(take(agent, need))
                assert len(held[-1].gpu_indexes) == need.gpu_count
        elif held:
            agent.give(held.pop(choice % len(held)))
        handed = [index for reservation in held for index in reservation.gpu_indexes]
        assert len(handed) == len(set(handed))
        assert agent.free_cpus_milli == 8000 - sum(item.resources.cpus_milli for item in held)
        assert agent.free_cpus_milli >= 0
        assert agent.free_memory_bytes >= 0
        assert agent.free_disk_bytes >= 0
    for reservation in held:
        agent.give(reservation)
    assert free(agent) == free(some_slots(total=TOTAL))


def test_what_is_held_already_counts_even_when_it_is_more_than_there_is() -> None:
    agent = some_slots(total=a_capacity(cpus=1))
    held = [
        Reservation(agent_id=agent.agent_id, namespace="default", resources=Resources(cpus_milli=800)) for _ in range(3)
    ]
    fleet = Fleet()
    fleet.put(agent, {Fence(number): reservation for number, reservation in enumerate(held)})
    assert agent.free_cpus_milli == -1400
    assert fleet.place(a_shape(cpus_milli=0), 0.0) is None
    for reservation in held:
        agent.give(reservation)
    assert agent.free_cpus_milli == 1000


def test_an_accelerator_that_is_gone_does_not_come_back_with_its_reservation() -> None:
    agent = some_slots(total=a_capacity(gpus=some_gpus("A100")))
    need = Resources(gpu_count=1)
    agent.give(Reservation(agent_id=agent.agent_id, namespace="default", resources=need, gpu_indexes=(5,)))
    assert [gpu.index for gpu in agent.free_gpus] == [0]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("", [0, 1, 2, 3]),
        ("a100", [0, 2]),
        ("A100", [0, 2]),
        ("80GB", [0, 2]),
        ("nvidia", [0, 1, 2]),
        ("nvidia a100-sxm4-80gb", [0, 2]),
        ("A10", []),
        ("100", []),
        ("T4", [3]),
        ("tesla t4", [3]),
    ],
)
def test_an_accelerator_matches_by_its_model_or_a_word_of_it(wanted: str, found: list[int]) -> None:
    indexes = []
    for count in range(5):
        agent = some_slots(total=TOTAL)
        shape = a_shape(gpu_count=count, gpu_name=wanted)
        if agent.fits_now(shape):
            indexes = list(agent.take(shape))
    assert indexes == found


@pytest.mark.parametrize(
    ("shape", "lack"),
    [
        (a_shape(), ""),
        (a_shape(cpus_milli=8000, memory_bytes=2**42, disk_bytes=2**42, gpu_count=4), ""),
        (a_shape(labels=(("zone", "eu"),)), ""),
        (a_shape("other"), "pool other"),
        (a_shape(labels=(("zone", "us"),)), "label zone=us"),
        (a_shape(labels=(("rack", "1"),)), "label rack=1"),
        (a_shape(cpus_milli=8001), "8.001 cpus"),
        (a_shape(memory_bytes=2**42 + GIB), "4097 GiB of memory"),
        (a_shape(disk_bytes=2**43), "8192 GiB of disk"),
        (a_shape(gpu_count=5), "5 gpus"),
        (a_shape(gpu_count=3, gpu_name="A100"), "3 gpus A100"),
    ],
)
def test_an_agent_says_what_it_can_never_give(shape: object, lack: str) -> None:
    assert some_slots(total=TOTAL, labels={"zone": "eu"}).lacks(shape) == lack  # type: ignore[arg-type]
