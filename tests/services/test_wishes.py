"""Tasks are kept to the machines that they ask for, and what is held is the alternative that was placed."""

from __future__ import annotations

from styx_server.core.machines.needs import AskedMachine, SpotUse
from styx_server.core.states import TaskState
from styx_server.core.task import Alternative, NewTask, Resources
from tests.support.builders import a_capacity, a_new_task, exited
from tests.support.server import FakeAgent, Server
from tests.support.until import soon_true


async def rented(server: Server, place: str, *, spot: bool = False, **changes: object) -> FakeAgent:
    """An agent whose join token says where its machine is, as tokens of rented machines do."""
    provider, region, zone = place.split("/")
    labels = {
        "styx/provider": provider,
        "styx/region": region,
        "styx/zone": zone,
        "styx/machine-type": "g6.xlarge",
        "styx/spot": "true" if spot else "false",
        "styx/arch": "x86_64",
    }
    return await server.agent(labels=labels, **changes)


def asking(*infra: str, spot: SpotUse | None = None) -> NewTask:
    return a_new_task(machine=AskedMachine(infra=infra, spot=spot))


def either(*, ordered: bool) -> NewTask:
    """Four cores, or one."""
    each = (Alternative(resources=Resources(cpus_milli=4000)), Alternative(resources=Resources(cpus_milli=1000)))
    return a_new_task(alternatives=each, ordered=ordered)


async def test_a_task_runs_only_where_it_asked_to(server: Server) -> None:
    here = await rented(server, "aws/us-east-1/us-east-1a")
    there = await rented(server, "gcp/us-central1/us-central1-a")
    own = await server.agent()
    first, second, third = [
        (await server.submit(asking(*infra)))[0] for infra in (["gcp/us-central1"], ["aws/*/us-east-1a"], ["static"])
    ]
    for agent, task_id in ((there, first), (here, second), (own, third)):
        (order,) = await agent.takes(1)
        assert order.task_id == task_id
        await agent.runs(order, exited(0))


async def test_a_task_that_no_machine_suits_says_what_is_lacking(server: Server) -> None:
    await rented(server, "aws/us-east-1/us-east-1a")
    await server.agent()
    (task_id,) = await server.submit(asking("aws/eu-west-1"))
    await server.becomes(task_id, TaskState.PENDING, "no_match")
    status = await server.app.tasks.status(task_id)
    assert status["message"] == "no agent can ever run it: of 2 agents 2 lack place aws/eu-west-1"


async def test_what_an_agent_says_of_its_own_machine_opens_no_door(server: Server) -> None:
    liar = await server.join()
    liar.says = {"styx/provider": "aws", "styx/region": "us-east-1", "styx/zone": "us-east-1a"}
    await liar.connect()
    (task_id,) = await server.submit(asking("aws"))
    await server.becomes(task_id, TaskState.PENDING, "no_match")
    assert liar.assigned == []


async def test_a_spot_machine_gets_tasks_that_say_nothing_only_when_its_pool_says_so(server: Server) -> None:
    agent = await rented(server, "aws/us-east-1/us-east-1a", spot=True)
    (silent,) = await server.submit(a_new_task())
    await server.becomes(silent, TaskState.PENDING, "no_match")
    (willing,) = await server.submit(asking(spot=SpotUse.PREFER))
    (order,) = await agent.takes(1)
    assert order.task_id == willing
    await agent.runs(order, exited(0))
    await server.rows("update pools set spec = $1 where name = 'default'", {"spot": "any"})

    async def is_taken() -> bool:
        # As every two seconds: the pool was changed by any server, and nobody tells.
        server.app.scheduling.agents_changed(None)
        await server.settled()
        return len(agent.assigned) == 2

    await soon_true(is_taken, "the task that says nothing has a place")
    assert agent.assigned[1].task_id == silent
    await agent.runs(agent.assigned[1], exited(0))


async def test_the_alternative_that_was_placed_is_what_is_held_and_what_the_agent_is_told(server: Server) -> None:
    agent = await server.agent(capacity=a_capacity(cpus=6))
    for _ in range(3):
        await server.submit(either(ordered=True))
    orders = await agent.takes(3)
    assert [order.alternative for order in orders] == [0, 1, 1]
    rows = await server.rows("select alternative from live_attempts order by fence")
    assert [row["alternative"] for row in rows] == [0, 1, 1]
    assert (await server.app.agents.get(agent.agent_id)).reserved.cpus_milli == 6000
    for order in orders:
        await agent.runs(order, exited(0))


async def test_what_is_held_is_the_same_after_all_was_read_anew(server: Server) -> None:
    agent = await server.agent(capacity=a_capacity(cpus=5))
    await server.submit(either(ordered=True))
    await server.submit(either(ordered=True))
    orders = await agent.takes(2)
    for order in orders:
        await agent.starts(order)
    server.app.scheduling.doubt()
    await server.settled()
    held = server.app.scheduling._ledger.held_on(agent.agent_id)
    assert sorted(item.resources.cpus_milli for item in held) == [1000, 4000]
    for order in orders:
        await agent.ends(order, exited(0))


async def test_an_order_that_is_sent_again_names_its_alternative(server: Server) -> None:
    agent = await server.agent(capacity=a_capacity(cpus=1))
    await server.submit(either(ordered=False))
    await agent.takes(1)
    await agent.connect()
    first, second = await agent.takes(2)
    assert first == second
    assert second.alternative == 1
    await agent.runs(second, exited(0))


async def test_a_task_without_alternatives_holds_none(server: Server) -> None:
    agent = await server.agent()
    await server.submit()
    (order,) = await agent.takes(1)
    assert order.alternative is None
    (row,) = await server.rows("select alternative from live_attempts")
    assert row["alternative"] is None
    await agent.runs(order, exited(0))
