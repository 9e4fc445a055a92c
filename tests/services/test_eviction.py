"""An agent says that its machine is taken back: out of service at once, its tasks elsewhere, the machine given back."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from styx_server.core.session import PreemptionNotice, StopCause, StopOrder
from styx_server.core.states import AttemptState, OutcomeKind, TaskState
from tests.support.builders import an_outcome
from tests.support.server import FakeAgent, Server
from tests.support.shop import S, Shop, shop_of
from tests.support.until import soon, soon_true

NOTICE = PreemptionNotice(left_seconds=120, source="aws")
TAKEN = an_outcome(OutcomeKind.PREEMPTED)


@pytest.fixture
async def shop(server: Server) -> AsyncIterator[Shop]:
    async with shop_of(server) as shop:
        yield shop
        await shop.empty()


async def beat(agent: FakeAgent, *, owes: bool = False, notice: PreemptionNotice | None = NOTICE) -> None:
    """A beat as the stream hands it on."""
    assert agent.session is not None
    agent.session.owing, agent.session.notice = owes, notice
    assert await agent.server.app.sessions.beat(agent.session, [], notice is not None) is not None


async def kinds(server: Server, task_id: int) -> list[str]:
    rows = await server.rows("select kind from task_events where task_id = $1 order by seq", task_id)
    return [row["kind"] for row in rows]


async def test_a_notice_takes_the_machine_out_of_service_and_its_task_elsewhere(shop: Shop) -> None:
    server = shop.server
    instance_id, agent = await shop.ready()
    (task_id,) = await server.submit()
    (order,) = await agent.takes(1)
    await agent.starts(order)
    await beat(agent, owes=True)
    row = await shop.row(instance_id)
    assert (row["state"], row["reason"]) == (S.DRAINING, "preempted")
    assert "in 120 s" in row["message"]
    await soon(lambda: agent.stops == [StopOrder(fence=order.fence, cause=StopCause.PREEMPT)], "an order to stop")
    assert "preempt_requested" in await kinds(server, task_id)
    other = await server.agent()
    assert await agent.ends(order, TAKEN)
    (again,) = await other.takes(1)
    assert (again.task_id, again.attempt) == (task_id, 2)
    (task,) = await server.rows("select preemptions, failures, infra_failures from tasks where id = $1", task_id)
    assert tuple(task) == (1, 0, 0)
    await beat(agent)
    row = await shop.becomes(instance_id, S.TERMINATED, scales=True)
    assert row["reason"] == "preempted"


async def test_a_machine_is_kept_until_its_output_has_arrived(shop: Shop) -> None:
    instance_id, agent = await shop.ready()
    await beat(agent, owes=True)
    await shop.turn(scales=True)
    assert (await shop.row(instance_id))["state"] == S.DRAINING
    await beat(agent)
    await shop.becomes(instance_id, S.TERMINATED, scales=True)


async def test_a_machine_whose_agent_fell_silent_is_not_kept(shop: Shop) -> None:
    instance_id, agent = await shop.ready()
    await beat(agent, owes=True)
    await shop.server.rows("update agent_leases set beat_time = now() - interval '2 minutes'")
    await shop.becomes(instance_id, S.TERMINATED, scales=True)


async def test_the_place_is_avoided_and_a_notice_that_comes_again_is_one(shop: Shop) -> None:
    server = shop.server
    _, agent = await shop.ready()
    for _ in range(2):
        await beat(agent)
        await agent.connect(draining=True)
        await beat(agent)
    (refusal,) = await server.rows("select zone, kind, spot, strikes from refusals")
    assert tuple(refusal) == ("here-a", "preempted", 1, 1)
    assert [line["event"] for line in server.lines].count("preemption_noticed") == 1


async def test_a_machine_that_leaves_already_has_less_time_now(shop: Shop) -> None:
    instance_id, agent = await shop.ready()
    assert await shop.machinery.ends.drain(instance_id, "idle", "", None)
    await beat(agent, owes=True)
    row = await shop.row(instance_id)
    assert (row["state"], row["reason"]) == (S.DRAINING, "preempted")
    (deadline,) = await shop.server.rows(
        "select drain_deadline between now() + interval '1 minute' and now() + interval '2 minutes' as good from agents"
    )
    assert deadline["good"]


async def test_a_notice_that_could_not_be_stored_is_heard_with_the_next_beat(shop: Shop) -> None:
    instance_id, agent = await shop.ready()
    shop.server.database.lose_answer("evict_instance")
    await beat(agent)
    assert "preemption_noticed" not in [line["event"] for line in shop.server.lines]
    await beat(agent)
    assert agent.session is not None
    assert agent.session.noticed
    assert (await shop.row(instance_id))["reason"] == "preempted"
    assert len(await shop.server.rows("select from refusals")) == 1


async def test_an_agent_that_was_not_rented_works_again_when_its_machine_is_back(server: Server) -> None:
    agent, order = await server.one_running()
    await beat(agent)
    await soon(lambda: len(agent.stops) == 1, "an order to stop")
    assert await agent.ends(order, TAKEN)
    await server.becomes(order.task_id, TaskState.PENDING)
    await agent.disconnect()
    agent.boot_id = "boot-2"
    await agent.connect()
    await agent.takes(2)


async def test_what_was_assigned_and_not_sent_goes_elsewhere_too(shop: Shop) -> None:
    server = shop.server
    _, agent = await shop.ready()
    (task_id,) = await server.submit()
    (order,) = await agent.takes(1)
    await agent.disconnect()
    agent.assigned.clear()
    await agent.connect(draining=True)
    await beat(agent)
    other = await server.agent()
    assert agent.session is not None
    if order.fence in agent.session.known:  # it was sent again: the agent refuses it
        assert await agent.report(order, AttemptState.ENDED, outcome=TAKEN)

    async def is_elsewhere() -> bool:
        return bool(other.assigned) and other.assigned[0].task_id == task_id

    await soon_true(is_elsewhere, "it runs elsewhere")
