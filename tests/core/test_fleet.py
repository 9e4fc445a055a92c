"""Which agent gets a task: those with room take turns, and nobody who has room is forgotten."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from styx_server.core.placement.backlog import Backlog
from styx_server.core.placement.fleet import Fleet
from styx_server.core.placement.ledger import Ledger
from styx_server.core.placement.plan import plan_round
from styx_server.core.task import AgentId, Fence, Shape
from tests.support.builders import a_capacity, a_shape, a_waiting, some_gpus, some_slots


def test_load_spreads_over_equal_agents() -> None:
    fleet = Fleet()
    for number in (1, 2, 3):
        fleet.put(some_slots(number), {})
    chosen = []
    for _ in range(6):
        found = fleet.place(a_shape(), 0.0)
        assert found is not None
        agent, _ = found
        agent.take(a_shape())
        chosen.append(agent.agent_id)
    assert sorted(chosen) == [1, 1, 2, 2, 3, 3]


def test_an_agent_out_of_service_gets_nothing_until_it_is_back() -> None:
    fleet = Fleet()
    fleet.put(some_slots(1), {})
    fleet.set_accepting(AgentId(1), False)
    fleet.set_accepting(AgentId(99), False)
    assert fleet.place(a_shape(), 0.0) is None
    assert fleet.explain(a_shape())[0]
    fleet.set_accepting(AgentId(1), True)
    assert fleet.place(a_shape(), 0.0) is not None


def test_a_replaced_agent_is_judged_by_what_it_has_now() -> None:
    fleet = Fleet()
    fleet.put(some_slots(1, total=a_capacity(cpus=1)), {})
    big = a_shape(cpus_milli=2000)
    assert fleet.place(big, 0.0) is None
    assert fleet.explain(big)[0] is False
    fleet.put(some_slots(1, total=a_capacity(cpus=2)), {})
    assert fleet.place(big, 0.0) is not None


def test_the_reason_for_waiting_counts_what_is_lacking() -> None:
    fleet = Fleet()
    assert "no agent yet" in fleet.explain(a_shape())[1]
    fleet.put(some_slots(1), {})
    fleet.put(some_slots(2, pool="gpu"), {})
    possible, text = fleet.explain(a_shape(cpus_milli=10**7))
    assert not possible
    assert "of 2 agents" in text
    assert "1 lacks 10000 cpus" in text
    assert "1 lacks pool default" in text


SHAPES = [a_shape(), a_shape(cpus_milli=2500), a_shape(cpus_milli=0), a_shape(gpu_count=1), a_shape("other")]
STEPS = st.one_of(
    st.tuples(st.just("place"), st.integers(0, len(SHAPES) - 1)),
    st.tuples(st.just("end"), st.integers(0, 40)),
    st.tuples(st.just("enter"), st.integers(1, 3)),
    st.tuples(st.just("leave"), st.integers(1, 3)),
    st.tuples(st.just("accept"), st.integers(1, 3)),
    st.tuples(st.just("refuse"), st.integers(1, 3)),
)


class Moves:
    """A ledger to which things happen, a tenth of a second apart."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.now = 0.0
        self.fences: list[Fence] = []
        self._fence = 0

    def take(self, step: str, choice: int) -> None:
        fleet, agent_id = self.ledger.fleet, AgentId(choice)
        self.now += 0.1
        match step:
            case "place":
                self.place(SHAPES[choice])
            case "end" if self.fences:
                self.ledger.ended([self.fences.pop(choice % len(self.fences))], self.now)
            case "enter":
                total = a_capacity(cpus=choice, gpus=some_gpus(*["A100"] * (choice - 1)))
                pool = "other" if choice == 3 else "default"
                self.ledger.enter(some_slots(choice, total=total, pool=pool, queues=choice == 2), {})
                fleet.agents[agent_id].pace.note(100, self.now)
            case "leave":
                self.ledger.leave(agent_id)
            case "accept" | "refuse":
                fleet.set_accepting(agent_id, step == "accept")

    def place(self, shape: Shape) -> None:
        backlog = Backlog()
        window = backlog.namespace("default")
        window.begin_refill()
        window.end_refill([a_waiting(1, shape=shape)], exhausted=True)
        plan = plan_round(backlog, self.ledger.fleet, self.ledger.usage, limit=1, now=self.now)
        for placement in plan.placements:
            self._fence += 1
            self.ledger.note(Fence(self._fence), placement.reservation)
            self.fences.append(Fence(self._fence))
        if not plan.placements:
            assert not self.suitable(shape)

    def suitable(self, shape: Shape) -> list[AgentId]:
        """Agents that a look at all of them finds."""
        need = shape.resources
        return [
            agent.agent_id
            for agent in self.ledger.fleet.agents.values()
            if not agent.lacks(shape) and (agent.fits_now(shape) or agent.may_queue(need, self.now))
        ]


@given(st.lists(STEPS, max_size=60))
def test_nobody_who_has_room_is_passed_over(steps: list[tuple[str, int]]) -> None:
    moves = Moves()
    for step, choice in steps:
        moves.take(step, choice)
