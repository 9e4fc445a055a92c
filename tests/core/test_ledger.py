"""Who holds what: reservations stand under fences, and whatever happens they are given back exactly once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from styx_server.core.placement.capacity import Reservation
from styx_server.core.placement.ledger import Ledger
from styx_server.core.task import AgentId, Fence, Resources, Shape
from tests.support.builders import a_capacity, some_slots

NEED = Resources(cpus_milli=500)
SHAPE = Shape(pool="default", resources=NEED)


def taken(ledger: Ledger, fence: int, agent_id: int) -> None:
    """A plan takes something on an agent, and it stands under a fence."""
    agent = ledger.fleet.agents[AgentId(agent_id)]
    reservation = Reservation(
        agent_id=agent.agent_id, namespace="default", resources=NEED, gpu_indexes=agent.take(SHAPE)
    )
    ledger.usage["default"] = ledger.usage.get("default", 0) + NEED.cpus_milli
    ledger.note(Fence(fence), reservation)


def an_agent_with(ledger: Ledger, agent_id: int, fences: list[int]) -> None:
    slots = some_slots(agent_id, total=a_capacity(cpus=100))
    reservation = Reservation(agent_id=AgentId(agent_id), namespace="default", resources=NEED)
    ledger.enter(slots, {Fence(fence): reservation for fence in fences})


def holds_together(ledger: Ledger) -> None:
    assert ledger.usage.get("default", 0) == NEED.cpus_milli * len(list(ledger._held))
    for agent in ledger.fleet.agents.values():
        assert agent.free_cpus_milli == 100_000 - NEED.cpus_milli * len(ledger.held_on(agent.agent_id))


STEPS = st.one_of(
    st.tuples(st.just("take"), st.integers(1, 2)),
    st.tuples(st.just("give"), st.integers(0, 40)),
    st.tuples(st.just("enter"), st.integers(1, 2)),
    st.tuples(st.just("leave"), st.just(2)),
)


@given(st.lists(STEPS, max_size=40), st.lists(st.integers(0, 40), max_size=10, unique=True))
def test_what_is_free_is_always_what_nobody_holds(steps: list[tuple[str, int]], kept: list[int]) -> None:
    ledger = Ledger()
    for agent_id in (1, 2):
        an_agent_with(ledger, agent_id, [])
    for number, (step, choice) in enumerate(steps):
        if step == "leave":
            ledger.leave(AgentId(choice))
            assert ledger.held_on(AgentId(choice)) == []
            an_agent_with(ledger, choice, [])
        elif step == "take":
            taken(ledger, 100 + number, choice)
        elif step == "give":
            fences = list(ledger._held)
            ledger.give_back(fences[choice : choice + 2] * 2)
        else:
            own = [fence for fence in list(ledger._held) if fence in ledger._of_agent.get(AgentId(choice), ())]
            an_agent_with(ledger, choice, [fence for index, fence in enumerate(own) if index in kept])
        holds_together(ledger)
    ledger.give_back(list(ledger._held))
    holds_together(ledger)
    assert ledger.usage.get("default", 0) == 0


def test_what_is_in_flight_is_given_up_when_the_agent_comes_with_a_new_session() -> None:
    ledger = Ledger()
    an_agent_with(ledger, 1, [])
    taken(ledger, 7, 1)
    assert Fence(7) in ledger._held
    an_agent_with(ledger, 1, [])
    assert Fence(7) not in ledger._held
    ledger.give_back([Fence(7)])
    holds_together(ledger)


def test_a_share_is_given_back_even_when_the_agent_is_gone() -> None:
    ledger = Ledger()
    an_agent_with(ledger, 1, [])
    taken(ledger, 7, 1)
    del ledger.fleet.agents[AgentId(1)]
    ledger.give_back([Fence(7)])
    assert ledger.usage["default"] == 0
    assert ledger.held_on(AgentId(1)) == []
