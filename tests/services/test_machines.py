"""Machines that are rented and given back, on a real database, from a cloud that does badly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from styx_server.core.errors import Unauthenticated
from styx_server.core.machines.instance import CloudMachine, MachineState
from styx_server.core.machines.refusal import RULES, RefusalKind
from styx_server.core.machines.scale import Rent
from styx_server.core.states import TaskState
from tests.support.builders import exited
from tests.support.cloud import HOME
from tests.support.server import Server
from tests.support.shop import S, Shop, shop_of
from tests.support.until import soon_true


@pytest.fixture
async def shop(server: Server) -> AsyncIterator[Shop]:
    async with shop_of(server) as shop:
        yield shop
        await shop.empty()


async def test_a_machine_is_stored_rented_joined_and_given_back(shop: Shop) -> None:
    instance_id, agent = await shop.ready()
    assert (await shop.row(instance_id))["state"] == S.READY
    (task_id,) = await shop.server.submit()
    (order,) = await agent.takes(1)
    assert order.task_id == task_id
    assert not await shop.machinery.ends.give_back(instance_id, agent.agent_id, "test", "")
    await agent.starts(order)
    assert await shop.machinery.ends.give_back(instance_id, agent.agent_id, "test", "", force=True)
    assert agent.endings == ["AGENT_REMOVED"]
    row = await shop.becomes(instance_id, S.TERMINATED)
    assert (row["reason"], row["request"], shop.cloud.running) == ("test", None, [])
    # What ran there is called over when the machine is confirmed gone, and waits for another.
    await shop.server.becomes(task_id, TaskState.PENDING)
    (price,) = await shop.server.rows("select start_time, end_time, price_micros from instance_prices")
    assert price["price_micros"] == 100_000
    assert price["end_time"] > price["start_time"]


async def test_the_agent_carries_what_only_servers_say(shop: Shop) -> None:
    instance_id, agent = await shop.ready()
    view = await shop.server.app.agents.get(agent.agent_id)
    assert view.labels["styx/instance"] == f"i{instance_id}"
    assert (view.labels["styx/provider"], view.labels["styx/spot"]) == ("cloud", "false")


async def test_the_token_of_a_machine_is_good_for_one_agent_only(shop: Shop) -> None:
    _, agent = await shop.ready()
    (machine,) = shop.cloud.running
    with pytest.raises(Unauthenticated):
        await shop.moves_in(machine)
    assert agent.endings == []


async def test_who_joins_from_a_machine_that_is_given_back_is_refused(shop: Shop) -> None:
    instance_id = await shop.rent()
    await shop.becomes(instance_id, S.LAUNCHED)
    (machine,) = shop.cloud.running
    assert await shop.machinery.ends.give_back(instance_id, None, "test", "")
    with pytest.raises(Unauthenticated, match="is being given back"):
        await shop.moves_in(machine)


async def test_a_lost_answer_gives_no_second_machine(shop: Shop) -> None:
    shop.cloud.lost = 3
    instance_id = await shop.rent()
    await shop.becomes(instance_id, S.LAUNCHED)
    assert len(shop.cloud.ledger) == 1


@pytest.mark.parametrize("kind", [kind for kind in RefusalKind if RULES[kind].fate_known and not RULES[kind].repeats])
async def test_a_definite_no_ends_the_instance_and_is_remembered(shop: Shop, kind: RefusalKind) -> None:
    shop.cloud.refusals = [kind]
    instance_id = await shop.rent()
    row = await shop.becomes(instance_id, S.FAILED)
    assert (row["reason"], row["message"]) == (kind.value, f"no: {kind.value}")
    assert (shop.bazaar.refused_kinds, shop.cloud.ledger) == ([kind], {})


async def test_throttling_is_waited_out_under_the_same_key(shop: Shop) -> None:
    shop.cloud.refusals = [RefusalKind.THROTTLED] * 3
    instance_id = await shop.rent()
    await shop.becomes(instance_id, S.LAUNCHED)
    assert (shop.bazaar.refused_kinds, len(shop.cloud.ledger)) == ([], 1)


async def test_a_machine_whose_answers_are_all_lost_is_found_on_the_list(shop: Shop) -> None:
    shop.cloud.lost = 10_000
    instance_id = await shop.rent()
    row = await shop.becomes(instance_id, S.LAUNCHED)
    assert [machine.cloud_id for machine in shop.cloud.running] == [row["cloud_id"]]


async def test_a_machine_that_was_never_made_is_confirmed_gone_in_the_end(shop: Shop) -> None:
    shop.cloud.away = True
    instance_id = await shop.rent()

    async def is_given_up() -> bool:
        await shop.turn()
        return bool((await shop.row(instance_id))["state"] == S.TERMINATING)

    await soon_true(is_given_up, "it is given back")
    shop.cloud.away = False
    await shop.becomes(instance_id, S.TERMINATED)
    assert shop.cloud.ledger == {}


async def test_a_spot_machine_that_is_taken_back_has_its_tasks_go_on_elsewhere(shop: Shop) -> None:
    instance_id, agent = await shop.ready()
    (task_id,) = await shop.server.submit()
    (order,) = await agent.takes(1)
    await agent.starts(order)
    (machine,) = shop.cloud.running
    shop.cloud.take_back(machine.cloud_id)
    row = await shop.becomes(instance_id, S.TERMINATED)
    assert row["reason"] == "preempted"
    await shop.server.becomes(task_id, TaskState.PENDING)
    (counts,) = await shop.server.rows("select preemptions, infra_failures from tasks")
    assert tuple(counts) == (1, 0)


async def test_a_list_that_lags_ends_nothing(shop: Shop) -> None:
    _, agent = await shop.ready()
    for _ in range(5):
        shop.cloud.unlisted = set(shop.cloud.ledger)
        await shop.turn()
        await asyncio.sleep(0.3)
    assert agent.endings == []
    assert len(shop.cloud.running) == 1


async def test_a_machine_that_comes_back_from_the_dead_is_ended_again(shop: Shop) -> None:
    instance_id, agent = await shop.ready()
    await shop.machinery.ends.give_back(instance_id, agent.agent_id, "test", "", force=True)
    await shop.becomes(instance_id, S.TERMINATED)
    (machine,) = shop.cloud.ledger.values()
    shop.cloud.ledger[machine.cloud_id] = CloudMachine(
        place=HOME, cloud_id=machine.cloud_id, state=MachineState.RUNNING, key=machine.key, tags=machine.tags
    )

    async def is_ended() -> bool:
        await shop.turn()
        return not shop.cloud.running

    await soon_true(is_ended, "it is ended again")


async def test_a_machine_with_our_tag_and_without_a_row_is_ended_after_a_while_and_others_are_not(shop: Shop) -> None:
    instance_id, _ = await shop.ready()
    (machine,) = shop.cloud.running
    for number, deployment in enumerate((machine.tags["styx-deployment"], "somebody else's")):
        shop.cloud.ledger[f"x-{number}"] = CloudMachine(
            place=HOME,
            cloud_id=f"x-{number}",
            state=MachineState.RUNNING,
            key=f"x{number}",
            tags={"styx-deployment": deployment},
        )

    async def is_ended() -> bool:
        await shop.turn()
        return shop.cloud.ledger["x-0"].state is MachineState.ENDED

    await soon_true(is_ended, "the orphan is ended")
    assert shop.cloud.ledger["x-1"].state is MachineState.RUNNING
    assert (await shop.row(instance_id))["state"] == S.READY
    del shop.cloud.ledger["x-1"]


async def test_work_has_machines_rented_and_idle_ones_are_given_back(shop: Shop) -> None:
    await shop.server.rows("update pools set spec = '{\"idle_seconds\": 0.2}'")
    tasks = [number for _ in range(4) for number in await shop.server.submit()]

    async def are_there() -> bool:
        await shop.turn(scales=True)
        return len(shop.cloud.running) >= 2

    await soon_true(are_there, "two machines for four tasks of one core")
    for _ in range(3):
        await shop.turn(scales=True)
    assert len(shop.cloud.running) == 2
    await shop.server.becomes(tasks[0], TaskState.PENDING, "provisioning")
    agents = [await shop.moves_in(machine) for machine in shop.cloud.running]
    for agent in agents:
        for order in await agent.takes(2):
            await agent.starts(order)
    for _ in range(3):
        await shop.turn(scales=True)
    assert len(shop.cloud.running) == 2

    async def are_gone() -> bool:
        await shop.turn(scales=True)
        return not shop.cloud.running

    for agent in agents:
        for order in agent.assigned:
            await agent.ends(order, exited(0))
    await soon_true(are_gone, "idle machines are given back")


async def test_limits_of_a_pool_hold_in_the_database(shop: Shop) -> None:
    await shop.server.rows("update pools set spec = '{\"max_machines\": 2}'")
    wishes = await asyncio.gather(*(shop.wish() for _ in range(5)))
    assert sorted(isinstance(each, str) for each in wishes) == [False, False, True, True, True]
    await shop.server.rows('update pools set spec = \'{"max_machines": 9, "max_price_micros": 250000}\'')
    assert "pool default may cost $0.2500/h" in str(await shop.wish())


async def test_nothing_is_rented_while_renting_is_frozen_or_another_leads(shop: Shop) -> None:
    wish, term = Rent("default", shop.bazaar.offer), shop.server.app.scheduling.wants.term
    assert await shop.machinery.intents.rent(wish, term + 1) == "another server leads"
    await shop.server.rows("update deployment set frozen = true")
    (task_id,) = await shop.server.submit()
    await shop.server.becomes(task_id, TaskState.PENDING, "no_match")
    await shop.turn(scales=True)
    await shop.server.settled()
    (row,) = await shop.server.rows("select reason, message from shapes where message <> ''")
    assert tuple(row) == ("no_match", "renting is frozen; `styx unfreeze` lets it go on")
    assert shop.cloud.ledger == {}


async def test_a_budget_that_is_used_up_stops_renting_and_who_waits_is_told(shop: Shop) -> None:
    await shop.server.rows(
        "insert into budgets (scope, name, period, limit_micros) values ('pool', 'default', 'day', 150000)"
    )
    await shop.rent()
    assert "the budget has no room for small in cloud/here/here-a" in str(await shop.wish())


async def test_a_machine_whose_agent_never_comes_is_given_back(shop: Shop) -> None:
    instance_id = await shop.rent()
    row = await shop.becomes(instance_id, S.TERMINATED, scales=True)
    assert row["reason"] == "never_joined"


async def test_a_machine_leaves_when_its_time_is_up(shop: Shop) -> None:
    await shop.server.rows('update pools set spec = \'{"life_seconds": 0.2, "min_machines": 1, "max_machines": 1}\'')
    instance_id, _ = await shop.ready()
    row = await shop.becomes(instance_id, S.TERMINATED, scales=True)
    assert row["reason"] == "expired"


async def test_a_disk_has_room_for_the_system_beside_what_the_task_wants(shop: Shop) -> None:
    term = shop.server.app.scheduling.wants.term
    disks = []
    for wanted in (0, 100 << 30):
        instance_id = await shop.machinery.intents.rent(Rent("default", shop.bazaar.offer, wanted), term)
        assert isinstance(instance_id, int)
        disks.append((await shop.row(instance_id))["request"]["disk_bytes"])
    assert disks == [0, 160 << 30]
