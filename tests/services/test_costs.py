"""Reports of costs, budgets and the tap, on what the database has."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from styx_server.clock import now
from styx_server.core.errors import Conflict, InvalidRequest, NotFound
from styx_server.core.machines.cost import Span
from styx_server.core.machines.instance import InstanceState
from styx_server.core.machines.offer import MachineSize, Place
from styx_server.core.task import Resources, TaskId
from styx_server.services.budgets import BudgetKey, BudgetPeriod, BudgetScope, budget_room
from styx_server.services.costs import CostQuery, GroupBy, Report
from styx_server.services.tasks import Mutation
from tests.support.builders import GIB, a_capacity, exited, some_gpus
from tests.support.rented import a_machine, an_offer
from tests.support.server import ONCE, FakeAgent, Server

DOLLAR = 1_000_000
MONTH = BudgetKey(scope=BudgetScope.ALL, period=BudgetPeriod.MONTH)
POOL = BudgetKey(scope=BudgetScope.POOL, name="gpu", period=BudgetPeriod.TOTAL)


async def ran(server: Server, agent: FakeAgent, start: datetime, hours: float, **changes: Any) -> TaskId:
    """A task that held its part of an agent from `start` on."""
    (task_id,) = await server.submit(**changes)
    order = next(order for order in reversed(await agent.takes(len(agent.assigned) + 1)) if order.task_id == task_id)
    await agent.runs(order, exited())
    # Attempts that are over never change, but in a test that needs a past.
    times = (start, start + timedelta(hours=hours), task_id)
    await server.rows("alter table attempts disable trigger user")
    await server.rows("update attempts set assign_time = $1, end_time = $2 where task_id = $3", *times)
    await server.rows("alter table attempts enable trigger user")
    return task_id


async def report(server: Server, end: datetime, **query: Any) -> Report:
    span = Span(start=end - timedelta(days=2), end=end)
    return await server.app.desk.costs.report(CostQuery(span=span, **query))


async def test_costs_are_shared_among_tasks_and_the_rest_is_idle(server: Server) -> None:
    end = now()
    start = end - timedelta(hours=4)
    agent = await server.agent()
    await a_machine(server, 1, InstanceState.TERMINATED, hours=4, agent_id=agent.agent_id, end_time=end, pool="gpu")
    one = await ran(server, agent, start, 2, labels={"team": "x"}, namespace="lab")
    two = await ran(server, agent, start + timedelta(hours=1), 1, labels={"team": "y"})
    whole = await report(server, end)
    assert (whole.cost_micros, whole.idle_micros, whole.entries) == (4 * DOLLAR, 4 * DOLLAR - 750_000, ())

    async def by(group: GroupBy, **more: Any) -> dict[str, int]:
        found = await report(server, end, by=group, **more)
        return {entry.key: entry.cost_micros for entry in found.entries}

    assert await by(GroupBy.TASK) == {f"t{one}": 500_000, f"t{two}": 250_000, "": 3_250_000}
    assert await by(GroupBy.NAMESPACE) == {"lab": 500_000, "default": 250_000, "": 3_250_000}
    assert await by(GroupBy.LABEL, label_key="team") == {"x": 500_000, "y": 250_000, "": 3_250_000}
    assert await by(GroupBy.POOL) == {"gpu": 4 * DOLLAR}
    assert await by(GroupBy.PROVIDER) == {"fake": 4 * DOLLAR}
    assert await by(GroupBy.INSTANCE) == {"i1": 4 * DOLLAR}
    assert sum((await by(GroupBy.DAY)).values()) == 4 * DOLLAR
    assert await by(GroupBy.TASK, namespace="lab") == {f"t{one}": 500_000}
    alone = await report(server, end, task_id=two)
    assert (alone.cost_micros, alone.idle_micros) == (250_000, 0)
    assert (await report(server, end, pool="other")).cost_micros == 0


async def test_accelerators_count_when_their_share_is_larger(server: Server) -> None:
    end = now()
    agent = await server.agent(capacity=a_capacity(cpus=8, gpus=some_gpus("L4", "L4")))
    size = MachineSize(cpus_milli=8000, memory_bytes=32 * GIB, gpu_name="L4", gpu_count=2)
    offer = an_offer(size=size, place=Place(provider="aws", region="us-east-1"), estimate=True)
    await a_machine(server, 1, hours=1, offer=offer, agent_id=agent.agent_id, end_time=end)
    need = Resources(cpus_milli=1000, gpu_count=1, gpu_name="L4")
    task_id = await ran(server, agent, end - timedelta(hours=1), 1, resources=need)
    found = await report(server, end, by=GroupBy.TASK)
    assert {entry.key: entry.cost_micros for entry in found.entries} == {f"t{task_id}": 500_000, "": 500_000}
    assert (found.estimate, found.instances, found.price_micros) == (True, 1, DOLLAR)


async def test_a_live_attempt_pays_until_now(server: Server) -> None:
    agent, _ = await server.one_running()
    await a_machine(server, 1, hours=1, agent_id=agent.agent_id)
    await server.rows("update tasks set assign_time = now() - interval '1 hour'")
    found = await report(server, now(), by=GroupBy.TASK)
    paid = {entry.key: entry.cost_micros for entry in found.entries}
    assert paid["t1"] == pytest.approx(250_000, rel=0.01)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"span": Span(start=now(), end=now() - timedelta(1))}, "start_time"),
        ({"span": Span(start=now() - timedelta(401), end=now())}, "start_time"),
        ({"span": Span(start=now() - timedelta(1), end=now()), "by": GroupBy.LABEL}, "label_key"),
        ({"span": Span(start=now() - timedelta(1), end=now()), "label_key": "x"}, "label_key"),
    ],
)
async def test_a_bad_question_is_refused(server: Server, query: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await server.app.desk.costs.report(CostQuery(**query))
    assert [violation.field for violation in caught.value.violations] == [field]


async def test_a_budget_is_set_changed_watched_and_taken_away(server: Server) -> None:
    budgets = server.app.desk.budgets
    await a_machine(server, 1, InstanceState.TERMINATED, hours=2, pool="gpu")
    made = await budgets.set(POOL, 10 * DOLLAR, None, ONCE)
    assert (made.spent_micros, made.hourly_micros, made.warned, made.exhausted) == (2 * DOLLAR, 0, False, False)
    await budgets.watch()
    assert not [line for line in server.lines if line["event"].startswith("budget")]
    assert (await budgets.set(POOL, 2_400_000, 0.8, ONCE)).warned
    for _ in range(3):
        await budgets.watch()
    assert [line["event"] for line in server.lines if line["event"].startswith("budget")] == ["budget_nearly_spent"]
    await a_machine(server, 2, hours=0, pool="gpu")
    assert (await budgets.page(None, 10))[0].exhausted
    await budgets.watch()
    assert [line["event"] for line in server.lines if line["event"].startswith("budget")][1:] == ["budget_exhausted"]
    await budgets.delete(POOL, ONCE)
    assert await budgets.page(None, 10) == []
    with pytest.raises(NotFound) as caught:
        await budgets.delete(POOL, ONCE)
    assert caught.value.reason == "BUDGET_NOT_FOUND"


async def test_a_period_counts_from_its_start(server: Server) -> None:
    await server.app.desk.budgets.set(MONTH, 10 * DOLLAR, None, ONCE)
    await server.app.desk.budgets.set(POOL, 10 * DOLLAR, None, ONCE)
    old = now() - timedelta(days=70)
    await a_machine(server, 1, InstanceState.TERMINATED, hours=3, pool="gpu", end_time=old)
    spent = {view.key: view.spent_micros for view in await server.app.desk.budgets.page(None, 10)}
    assert spent == {MONTH: 0, POOL: 3 * DOLLAR}


async def test_a_namespace_pays_for_its_tasks_alone(server: Server) -> None:
    end = now()
    agent = await server.agent()
    await a_machine(server, 1, InstanceState.TERMINATED, hours=4, agent_id=agent.agent_id, end_time=end)
    await ran(server, agent, end - timedelta(hours=4), 2, namespace="lab")
    key = BudgetKey(scope=BudgetScope.NAMESPACE, name="lab", period=BudgetPeriod.TOTAL)
    view = await server.app.desk.budgets.set(key, 500_000, None, ONCE)
    assert (view.spent_micros, view.exhausted) == (500_000, True)


async def test_room_is_what_the_tightest_limit_leaves_after_another_hour(server: Server) -> None:
    async def room(pool: str) -> int | None:
        async with server.database.transaction() as transaction:
            return await budget_room(transaction, pool)

    assert await room("gpu") is None
    await server.app.desk.budgets.set(POOL, 10 * DOLLAR, None, ONCE)
    assert (await room("gpu"), await room("other")) == (10 * DOLLAR, None)
    await a_machine(server, 1, InstanceState.TERMINATED, hours=2, pool="gpu")
    await a_machine(server, 2, InstanceState.INTENT, pool="gpu")
    assert await room("gpu") == 7 * DOLLAR
    await server.app.desk.budgets.set(BudgetKey(scope=BudgetScope.ALL, period=BudgetPeriod.TOTAL), DOLLAR, None, ONCE)
    assert (await room("gpu"), await room("other")) == (-2 * DOLLAR, -2 * DOLLAR)


@pytest.mark.parametrize(
    ("key", "limit", "share", "field"),
    [
        (MONTH, -1, 0.5, "limit_micros"),
        (MONTH, 1, 1.5, "warn_share"),
        (BudgetKey(scope=BudgetScope.ALL, name="x", period=BudgetPeriod.DAY), 1, 0.5, "name"),
        (BudgetKey(scope=BudgetScope.POOL, name="", period=BudgetPeriod.DAY), 1, 0.5, "name"),
    ],
)
async def test_a_bad_budget_is_refused(server: Server, key: BudgetKey, limit: int, share: float, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await server.app.desk.budgets.set(key, limit, share, ONCE)
    assert [violation.field for violation in caught.value.violations] == [field]


async def test_the_tap_is_closed_and_opened(server: Server) -> None:
    await a_machine(server, 1)
    mutation = Mutation(token_id=1, method="SetRenting", request_id="f1", digest=b"f" * 32)
    rate = await server.app.desk.budgets.set_frozen(mutation, frozen=True)
    assert (rate.frozen, rate.instances, rate.price_micros) == (True, 1, DOLLAR)
    assert not (await server.app.desk.budgets.set_frozen(ONCE, frozen=False)).frozen
    # A repeated request is answered with how things stand, and changes nothing.
    assert not (await server.app.desk.budgets.set_frozen(mutation, frozen=True)).frozen
    other = Mutation(token_id=1, method="SetRenting", request_id="f1", digest=b"g" * 32)
    with pytest.raises(Conflict):
        await server.app.desk.budgets.set_frozen(other, frozen=True)


async def test_a_task_that_ends_for_real_is_in_the_report(server: Server) -> None:
    agent, order = await server.one_running()
    await a_machine(server, 1, hours=1, agent_id=agent.agent_id)
    assert await agent.ends(order, exited())
    found = await report(server, now() + timedelta(seconds=1), by=GroupBy.TASK)
    assert "t1" in {entry.key for entry in found.entries}
