"""One round of scheduling: priority, fair shares, no more than there is, and a reason for whatever waits."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from styx_server.core.placement.backlog import Backlog, Waiting
from styx_server.core.placement.fleet import Fleet
from styx_server.core.placement.ledger import Ledger
from styx_server.core.placement.plan import plan_round
from styx_server.core.states import Reason
from styx_server.core.task import Fence, Shape
from tests.support.builders import GIB, a_capacity, a_shape, a_waiting, some_gpus, some_slots


def a_backlog(*tasks: Waiting) -> Backlog:
    backlog = Backlog()
    for name in {task.namespace for task in tasks}:
        window = backlog.namespace(name)
        window.begin_refill()
        own = sorted((task for task in tasks if task.namespace == name), key=lambda task: task.key)
        window.end_refill(own, exhausted=True)
    return backlog


def a_fleet(*cpus: float) -> Fleet:
    fleet = Fleet()
    for number, count in enumerate(cpus, start=1):
        fleet.put(some_slots(number, total=a_capacity(cpus=count)), {})
    return fleet


def test_the_highest_priority_of_all_namespaces_goes_first() -> None:
    backlog = a_backlog(
        a_waiting(1, namespace="a"), a_waiting(2, namespace="b", priority=7), a_waiting(3, namespace="a")
    )
    plan = plan_round(backlog, a_fleet(10), {"b": 10**9}, limit=10, now=0.0)
    assert [item.task.task_id for item in plan.placements] == [2, 1, 3]


def test_a_flood_of_one_namespace_does_not_starve_the_ten_tasks_of_another() -> None:
    flood = [a_waiting(number, namespace="flood") for number in range(1, 1001)]
    few = [a_waiting(number, namespace="few") for number in range(2001, 2011)]
    plan = plan_round(a_backlog(*flood, *few), a_fleet(20), {}, limit=100, now=0.0)
    assert Counter(item.task.namespace for item in plan.placements) == {"flood": 10, "few": 10}


def test_what_runs_already_counts_towards_the_share() -> None:
    tasks = [a_waiting(number, namespace=name) for number, name in enumerate("ababababab", start=1)]
    plan = plan_round(a_backlog(*tasks), a_fleet(4), {"a": 4000}, limit=100, now=0.0)
    assert Counter(item.task.namespace for item in plan.placements) == {"b": 4}


def test_shares_are_of_cores_and_not_of_tasks() -> None:
    big = [a_waiting(number, namespace="big", shape=a_shape(cpus_milli=4000)) for number in range(1, 9)]
    small = [a_waiting(number, namespace="small") for number in range(11, 31)]
    plan = plan_round(a_backlog(*big, *small), a_fleet(16), {}, limit=100, now=0.0)
    count = Counter(item.task.namespace for item in plan.placements)
    assert (count["big"], count["small"]) == (2, 8)


def test_a_round_stops_at_its_limit_and_leaves_the_rest_waiting() -> None:
    backlog = a_backlog(*(a_waiting(number) for number in range(1, 11)))
    plan = plan_round(backlog, a_fleet(100), {}, limit=3, now=0.0)
    assert ([item.task.task_id for item in plan.placements], len(backlog), plan.blocked) == ([1, 2, 3], 7, {})


def test_a_blocked_shape_does_not_hold_up_the_others() -> None:
    gpu = a_shape(gpu_count=1)
    backlog = a_backlog(a_waiting(1, shape=gpu, priority=9), a_waiting(2))
    plan = plan_round(backlog, a_fleet(1), {}, limit=10, now=0.0)
    assert [item.task.task_id for item in plan.placements] == [2]
    assert plan.blocked[gpu][0] is Reason.NO_MATCH
    assert len(backlog) == 1


def test_what_fits_but_finds_no_room_waits_for_capacity() -> None:
    backlog = a_backlog(a_waiting(1), a_waiting(2))
    plan = plan_round(backlog, a_fleet(1), {}, limit=10, now=0.0)
    assert plan.blocked[a_shape()][0] is Reason.CAPACITY


def test_releasing_restores_both_the_agent_and_the_share() -> None:
    ledger = Ledger()
    ledger.fleet = fleet = a_fleet(2)
    plan = plan_round(
        a_backlog(a_waiting(1), a_waiting(2, shape=a_shape(cpus_milli=0))), fleet, ledger.usage, limit=10, now=0.0
    )
    assert ledger.usage == {"default": 1001}
    for number, item in enumerate(plan.placements):
        ledger.note(Fence(number), item.reservation)
    ledger.give_back([Fence(0), Fence(1)])
    assert ledger.usage == {"default": 0}
    assert fleet.agents[plan.placements[0].reservation.agent_id].free_cpus_milli == 2000


SHAPES = [
    a_shape(),
    a_shape(cpus_milli=0),
    a_shape(cpus_milli=2500, memory_bytes=3 * GIB),
    a_shape(gpu_count=2),
    a_shape(gpu_count=1, gpu_name="A100"),
    a_shape("other"),
    a_shape(memory_bytes=100 * GIB),
]


@given(
    tasks=st.lists(
        st.tuples(st.sampled_from(SHAPES), st.sampled_from("abc"), st.integers(-1, 1), st.booleans()), max_size=40
    ),
    agents=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3), st.booleans()), max_size=4),
    limit=st.integers(1, 50),
)
def test_no_round_gives_more_than_there_is_or_forgets_a_task(
    tasks: list[tuple[Shape, str, int, bool]], agents: list[tuple[int, int, bool]], limit: int
) -> None:
    waiting = [
        a_waiting(number, namespace=name, priority=priority, shape=shape, ready_at=99.0 if later else 0.0)
        for number, (shape, name, priority, later) in enumerate(tasks, start=1)
    ]
    fleet = Fleet()
    for number, (cpus, gpus, accepting) in enumerate(agents, start=1):
        total = a_capacity(cpus=cpus, gpus=some_gpus(*["NVIDIA A100"] * gpus))
        fleet.put(some_slots(number, total=total, accepting=accepting), {})
    backlog = a_backlog(*waiting)
    usage: dict[str, int] = {}
    plan = plan_round(backlog, fleet, usage, limit=limit, now=0.0)
    placed = [item.task.task_id for item in plan.placements]
    assert len(placed) == len(set(placed)) <= limit
    assert len(placed) + len(backlog) == len(waiting)
    assert sum(usage.values()) == sum(max(1, item.task.shape.resources.cpus_milli) for item in plan.placements)
    for agent in fleet.agents.values():
        assert agent.free_cpus_milli >= 0
        assert agent.free_memory_bytes >= 0
    given = [(item.reservation.agent_id, index) for item in plan.placements for index in item.reservation.gpu_indexes]
    assert len(given) == len(set(given))
    for item in plan.placements:
        assert fleet.agents[item.reservation.agent_id].accepting
        assert not item.task.ready_at
    if len(placed) < limit:
        unplaced = [task for task in waiting if task.task_id not in placed and not task.ready_at]
        assert {task.shape for task in unplaced} <= set(plan.blocked)
        for agent in fleet.agents.values():
            assert not any(agent.fits_now(task.shape) and not agent.lacks(task.shape) for task in unplaced)
