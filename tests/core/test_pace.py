"""How many attempts an agent may have waiting follows from how quickly its attempts end."""

from __future__ import annotations

from styx_server.core.placement.backlog import Backlog
from styx_server.core.placement.capacity import Reservation
from styx_server.core.placement.ledger import Ledger
from styx_server.core.placement.pace import Pace
from styx_server.core.placement.plan import Plan, plan_round
from styx_server.core.task import AgentId, Fence
from tests.support.builders import a_capacity, a_shape, a_waiting, some_slots


def steady(per_second: int, seconds: float = 3.0) -> Pace:
    pace = Pace()
    for step in range(int(seconds * per_second)):
        pace.note(1, step / per_second)
    return pace


def test_a_tenth_of_a_second_of_work_may_wait() -> None:
    assert 95 <= steady(1000).allowance(3.0) <= 105
    assert steady(100).allowance(3.0) in (9, 10, 11)


def test_nothing_waits_behind_what_takes_long() -> None:
    assert steady(5, 60).allowance(60.0) == 0
    assert Pace().allowance(0.0) == 0


def test_a_burst_is_forgotten_soon_and_never_counts_without_bound() -> None:
    pace = Pace()
    pace.note(100_000, 0.0)
    assert pace.allowance(0.0) == 256
    assert pace.allowance(10.0) == 0


class Bench:
    """One agent of two cores, and tasks that each need one."""

    def __init__(self, waiting: int, *, queues: bool = True) -> None:
        self.ledger = Ledger()
        self.ledger.enter(some_slots(1, total=a_capacity(cpus=2), queues=queues), {})
        self.backlog = Backlog()
        window = self.backlog.namespace("default")
        window.begin_refill()
        window.end_refill([a_waiting(number) for number in range(1, waiting + 1)], exhausted=True)
        self.agent = self.ledger.fleet.agents[AgentId(1)]
        self._next = 0

    def plan(self, now: float = 0.0) -> Plan:
        self.agent.looked_at = -1.0  # another round
        plan = plan_round(self.backlog, self.ledger.fleet, self.ledger.usage, limit=1000, now=now)
        for item in plan.placements:
            self._next += 1
            self.ledger.note(Fence(self._next), item.reservation)
        return plan

    def hurry(self) -> None:
        """The agent has been quick of late."""
        self.agent.pace.note(200, 0.0)


def test_an_agent_of_which_nothing_is_known_gets_what_it_has_room_for() -> None:
    bench = Bench(10)
    assert [item.reservation.queued for item in bench.plan().placements] == [False, False]


def test_a_quick_agent_gets_more_and_its_sums_stay_right() -> None:
    bench = Bench(1000)
    bench.hurry()
    queued = [item.reservation.queued for item in bench.plan().placements]
    assert queued[:2] == [False, False]
    assert queued.count(True) == bench.agent.behind > 10
    assert bench.agent.free_cpus_milli == 0
    assert len(bench.plan().placements) == 0
    bench.ledger.ended([Fence(number) for number in range(1, len(queued) + 1)], 0.0)
    assert (bench.agent.free_cpus_milli, bench.agent.behind, bench.agent.queue) == (2000, 0, {})
    assert bench.ledger.usage == {"default": 0}


def test_it_is_filled_again_when_half_of_what_waits_is_gone() -> None:
    bench = Bench(1000)
    bench.hurry()
    bench.plan()
    count = bench.agent.behind
    bench.ledger.give_back([Fence(number) for number in range(1, count // 3)])
    assert bench.plan().placements == []
    bench.ledger.give_back([Fence(number) for number in range(1, 2 + count // 2 + 2)])
    assert bench.plan().placements != []


def test_those_that_wait_move_up_in_their_order() -> None:
    bench = Bench(1000)
    bench.hurry()
    bench.plan()
    bench.ledger.give_back([Fence(2)])
    assert Fence(3) not in bench.agent.queue
    assert Fence(4) in bench.agent.queue
    assert bench.agent.free_cpus_milli == 0


def test_what_is_given_back_unstarted_does_not_count_as_quick() -> None:
    bench = Bench(1000)
    bench.hurry()
    bench.plan()
    bench.agent.pace = Pace()
    bench.ledger.ended([Fence(number) for number in range(3, 10)], 0.0)
    assert bench.agent.pace.allowance(0.0) == 0
    assert bench.agent.free_cpus_milli == 0


def test_an_agent_that_cannot_keep_them_gets_none() -> None:
    bench = Bench(1000, queues=False)
    bench.hurry()
    assert len(bench.plan().placements) == 2


def test_tasks_with_accelerators_do_not_wait_on_agents() -> None:
    bench = Bench(0)
    bench.hurry()
    assert not bench.agent.may_queue(a_shape(gpu_count=1).resources, 0.0)
    assert bench.agent.may_queue(a_shape().resources, 0.0)


def test_an_agent_that_comes_back_has_those_waiting_that_were_not_started() -> None:
    bench = Bench(0)
    bench.hurry()
    need = a_shape().resources
    held = {
        Fence(number): Reservation(agent_id=AgentId(1), namespace="default", resources=need, queued=number > 1)
        for number in range(1, 6)
    }
    bench.ledger.enter(some_slots(1, total=a_capacity(cpus=2), queues=True), held)
    agent = bench.ledger.fleet.agents[AgentId(1)]
    assert (agent.free_cpus_milli, list(agent.queue), agent.behind) == (0, [3, 4, 5], 3)
    assert agent.pace is bench.agent.pace
