"""Random mischief around renting: whatever happens, an order gives one machine at most, and in the end none is left."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from random import Random

import pytest

from styx_server.core.machines.refusal import RefusalKind
from tests.support.server import Server
from tests.support.shop import S, Shop, shop_of

SEEDS = range(int(os.environ.get("STYX_MISCHIEF_SEEDS", "12")))


@pytest.mark.parametrize("seed", SEEDS)
async def test_whatever_happens_there_is_one_machine_for_an_order_and_none_in_the_end(
    server: Server, seed: int
) -> None:
    dice = Random(seed)  # noqa: S311 - a seed is the point
    async with shop_of(server) as shop:
        for _ in range(30):
            await dice.choice(MISCHIEF)(shop, dice)
            if dice.random() < 0.5:
                await shop.turn()
        await shop.empty()
        keys = [machine.key for machine in shop.cloud.ledger.values()]
        assert len(keys) == len(set(keys))
        assert shop.cloud.running == []
        rows = await server.rows("select key, state from instances")
        assert {row["key"] for row in rows} >= set(keys)
        assert {row["state"] for row in rows} <= {S.TERMINATED, S.FAILED}


async def wish(shop: Shop, dice: Random) -> None:
    for _ in range(dice.randrange(1, 3)):
        await shop.wish()


async def lose_answers(shop: Shop, dice: Random) -> None:
    shop.cloud.lost = dice.randrange(4)


async def refuse(shop: Shop, dice: Random) -> None:
    shop.cloud.refusals = dice.choices(list(RefusalKind), k=dice.randrange(3))


async def go_away_or_come_back(shop: Shop, dice: Random) -> None:
    shop.cloud.away = not shop.cloud.away


async def die(shop: Shop, dice: Random) -> None:
    """The server dies in the midst of its calls, and another begins."""
    await shop.machinery.renting.once()
    for _ in range(dice.randrange(20)):
        await asyncio.sleep(0)
    await shop.die()
    shop.open()


async def give_back(shop: Shop, dice: Random) -> None:
    rows = await shop.server.rows("select id, agent_id from instances where state < 6 order by id")
    for row in rows[: dice.randrange(3)]:
        await shop.machinery.ends.give_back(row["id"], row["agent_id"], "test", "", force=True)


async def take_back(shop: Shop, dice: Random) -> None:
    for machine in shop.cloud.running[: dice.randrange(2)]:
        shop.cloud.take_back(machine.cloud_id)


async def join(shop: Shop, dice: Random) -> None:
    rows = await shop.server.rows("select key from instances where state in (2, 3)")
    keys = {row["key"] for row in rows}
    for machine in [machine for machine in shop.cloud.running if machine.key in keys][:1]:
        await shop.moves_in(machine)


async def leave_out_of_a_list(shop: Shop, dice: Random) -> None:
    shop.cloud.unlisted = set(shop.cloud.ledger)


MISCHIEF: list[Callable[[Shop, Random], Awaitable[None]]] = [
    wish, wish, lose_answers, refuse, go_away_or_come_back, die, give_back, take_back, join, leave_out_of_a_list
]  # fmt: skip
