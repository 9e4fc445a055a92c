"""A person gives a machine back, and what runs there is treated as was said."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from styx_server.core.errors import Conflict, NotFound, WrongState
from styx_server.core.machines.instance import InstanceId, InstanceState
from styx_server.embedded import PostgresAddress
from styx_server.machinery import Rental
from styx_server.services.tasks import Mutation
from tests.support.rented import a_machine
from tests.support.server import ONCE, Server, running
from tests.support.stall import Stall

S = InstanceState


@pytest.fixture
async def renting(database: PostgresAddress) -> AsyncIterator[Server]:
    """A server that rents from a stall."""
    async with running(database, rental=Rental(providers={"fake": Stall()})) as server:
        yield server


async def state(server: Server, number: int) -> InstanceState:
    return (await server.app.desk.instances.get(InstanceId(number))).instance.state


async def give_back(server: Server, number: int, *, seconds: float | None = None, now: bool = False) -> InstanceState:
    deadline = None if seconds is None else timedelta(seconds=seconds)
    await server.app.desk.giving_back.terminate(InstanceId(number), ONCE, deadline=deadline, now=now)
    return await state(server, number)


async def test_a_machine_with_work_is_drained_first(renting: Server) -> None:
    agent, order = await renting.one_running()
    await a_machine(renting, 1, agent_id=agent.agent_id)
    assert await give_back(renting, 1) is S.DRAINING
    (view,) = await renting.app.agents.page(0, 10)
    assert (view.state.name, view.attempts, view.drain_deadline) == ("DRAINING", 1, None)
    assert await give_back(renting, 1, seconds=600) is S.DRAINING
    (view,) = await renting.app.agents.page(0, 10)
    assert view.drain_deadline is not None
    assert order.task_id


async def test_now_waits_for_nothing(renting: Server) -> None:
    agent, _ = await renting.one_running()
    await a_machine(renting, 1, agent_id=agent.agent_id)
    assert await give_back(renting, 1, now=True) >= S.TERMINATING


@pytest.mark.parametrize("before", [S.CREATING, S.LAUNCHED])
async def test_a_machine_without_an_agent_is_given_back_at_once(renting: Server, before: InstanceState) -> None:
    await a_machine(renting, 1, before)
    assert await give_back(renting, 1) >= S.TERMINATING


@pytest.mark.parametrize("before", [S.TERMINATING, S.TERMINATED, S.FAILED])
async def test_one_that_has_ended_stays_as_it_is(renting: Server, before: InstanceState) -> None:
    await a_machine(renting, 1, before)
    assert await give_back(renting, 1) >= before


async def test_an_unknown_machine_and_a_used_id_are_refused(renting: Server) -> None:
    with pytest.raises(NotFound):
        await give_back(renting, 5)
    await a_machine(renting, 1, S.TERMINATED)
    mutation = Mutation(token_id=1, method="TerminateInstance", request_id="x", digest=b"x" * 32)
    await renting.app.desk.giving_back.terminate(InstanceId(1), mutation, deadline=None, now=False)
    other = Mutation(token_id=1, method="TerminateInstance", request_id="x", digest=b"y" * 32)
    with pytest.raises(Conflict):
        await renting.app.desk.giving_back.terminate(InstanceId(1), other, deadline=None, now=False)


async def test_a_server_without_providers_gives_nothing_back(server: Server) -> None:
    await a_machine(server, 1)
    with pytest.raises(WrongState) as caught:
        await give_back(server, 1)
    assert caught.value.reason == "NOT_SUPPORTED"
