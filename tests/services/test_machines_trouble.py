"""Machines and what goes wrong around them: answers that come too late, regions that fail, agents that never come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
from structlog.testing import capture_logs

from styx_server.core.machines.instance import CloudMachine
from styx_server.core.machines.refusal import RefusalKind
from styx_server.store.retention import forget_refused
from tests.support.cloud import Cloud
from tests.support.server import Server
from tests.support.shop import S, Shop, shop_of
from tests.support.until import soon_true


@pytest.fixture
async def shop(server: Server) -> AsyncIterator[Shop]:
    async with shop_of(server) as shop:
        yield shop
        await shop.empty()


@pytest.mark.parametrize("kind", [RefusalKind.CREDENTIALS, RefusalKind.TIMEOUT])
async def test_a_machine_that_works_is_not_ended_because_the_last_answer_about_it_was_bad(
    shop: Shop, kind: RefusalKind
) -> None:
    shop.cloud.lost = 1
    held, go_on = asyncio.Event(), asyncio.Event()
    instance_id = await shop.rent()
    await shop.machinery.renting.once()
    await shop.calm()
    (machine,) = shop.cloud.running

    async def slow(order: object) -> CloudMachine:
        held.set()
        await go_on.wait()
        shop.cloud.refusals = [kind]
        return await Cloud.rent(shop.cloud, order)  # type: ignore[arg-type]

    shop.cloud.rent = slow  # type: ignore[method-assign]
    await shop.server.rows("update instances set create_time = now() - interval '1 day', next_time = now()")

    async def is_asked_again() -> bool:
        await shop.machinery.renting.once()
        return held.is_set()

    await soon_true(is_asked_again, "the same is asked again")
    agent = await shop.moves_in(machine)
    go_on.set()
    await shop.calm()
    assert (await shop.row(instance_id))["state"] == S.READY
    assert agent.endings == []


async def test_endless_throttling_ends_in_time(shop: Shop) -> None:
    shop.cloud.refusals = [RefusalKind.THROTTLED] * 10_000
    instance_id = await shop.rent()
    row = await shop.becomes(instance_id, S.TERMINATED)
    assert row["reason"] == "throttled"


async def test_what_was_refused_is_told_for_a_week_and_what_was_rented_for_ever(shop: Shop) -> None:
    rented, _ = await shop.ready()
    shop.cloud.refusals = [RefusalKind.CAPACITY] * 2
    old, new = [await shop.rent() for _ in range(2)]
    for instance_id in (old, new):
        await shop.becomes(instance_id, S.FAILED)
    await shop.server.rows("update instances set end_time = now() - interval '8 days' where id = $1", old)
    assert not await forget_refused(shop.server.app.database)
    assert [row["id"] for row in await shop.server.rows("select id from instances order by id")] == [rented, new]
    assert not await shop.server.rows("select from tokens where instance_id = $1", old)


async def test_where_agents_never_come_is_remembered(shop: Shop) -> None:
    instance_id = await shop.rent()
    await shop.becomes(instance_id, S.TERMINATED, scales=True)
    assert shop.bazaar.absences == 1


async def test_a_machine_that_drains_for_ever_is_stopped_when_it_has_lived_for_long_enough(shop: Shop) -> None:
    instance_id, agent = await shop.ready()
    await shop.server.submit()
    (order,) = await agent.takes(1)
    await agent.starts(order)
    assert await shop.machinery.ends.drain(instance_id, "test", "", None)
    await shop.turn(scales=True)
    assert (await shop.server.rows("select drain_deadline from agents"))[0]["drain_deadline"] is None
    await shop.server.rows("update instances set expire_time = now()")
    await shop.turn(scales=True)
    (row,) = await shop.server.rows("select drain_deadline from agents")
    await shop.turn(scales=True)
    assert row["drain_deadline"] is not None
    assert await shop.server.rows("select drain_deadline from agents") == [row]


async def test_a_region_that_cannot_be_understood_keeps_no_other_from_being_looked_at(shop: Shop) -> None:
    await shop.server.rows("insert into cloud_scopes (provider, region) values ('cloud', 'broken')")
    usual = shop.cloud.list
    asked = 0

    async def listed(deployment: str, region: str) -> Sequence[CloudMachine]:
        nonlocal asked
        if region == "broken":
            asked += 1
            raise KeyError(region)
        return await usual(deployment, region)

    shop.cloud.list = listed  # type: ignore[method-assign]
    shop.cloud.lost = 10_000
    instance_id = await shop.rent()
    await shop.becomes(instance_id, S.LAUNCHED)
    assert asked >= 1


async def test_machines_of_a_provider_that_is_not_configured_any_more_are_told_of_once(shop: Shop) -> None:
    await shop.ready()
    without = shop.server.app.machinery
    assert not without.providers
    with capture_logs() as logs:
        await without.sweeping.once()
        await without.sweeping.once()
    assert [log["provider"] for log in logs if log["event"] == "machines_abandoned"] == ["cloud"]
