"""The double of `fake` is `fake` itself, with stand-ins for agents and a cloud that is quick and never out of luck.

What it does not model: pages, and anything that a real cloud does to a network. `test_fake.py` rents real agents.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from styx_server.core.machines.instance import (
    TAG_DEPLOYMENT,
    TAG_KEY,
    Boot,
    CloudMachine,
    InstanceId,
    MachineState,
    RentOrder,
)
from styx_server.core.machines.offer import Offer, Place
from styx_server.core.machines.refusal import RefusalKind
from styx_server.providers.fake import FakeProvider
from styx_server.providers.fake_cloud import NAME, size_of
from styx_server.providers.fake_rules import Refusal, Rules
from styx_server.providers.local import arch
from tests.providers.standing_in import StandIns
from tests.support.until import soon_true

QUICK = Rules(call_seconds=0.0, start_seconds=(0.0, 0.1), notice_seconds=0.1)


class FakeMarket:
    """The made-up cloud, and its control file."""

    def __init__(self, folder: Path) -> None:
        self.deployment = "ours"
        self.provider = FakeProvider(folder / "fake", start=StandIns(folder / "stand-in").start)
        self.provider.rules.write(QUICK)

    def order(self, key: str, *, number: int = 1, spot: bool = False) -> RentOrder:
        size = size_of("small-1", arch())
        assert size is not None
        return RentOrder(
            instance_id=InstanceId(number),
            key=key,
            offer=Offer(
                place=Place(provider=NAME, region="meadow", zone="meadow-b"),
                machine_type="small-1",
                size=size,
                spot=spot,
                price_micros=20_000,
            ),
            tags={TAG_DEPLOYMENT: self.deployment, TAG_KEY: key},
            boot=Boot(server_urls=("http://127.0.0.1:9",), join_token="once", agent_name=key),
        )

    async def ledger(self) -> Sequence[CloudMachine]:
        return await asyncio.to_thread(self.provider.room.machines)

    async def refuse(self, kind: RefusalKind, times: int = 1) -> None:
        rules = self.provider.rules.read()
        self.provider.rules.write(replace(rules, refuse=(*rules.refuse, Refusal(kind=kind, times=times))))

    async def lose_answer(self, times: int = 1) -> None:
        self.provider.rules.write(replace(self.provider.rules.read(), lose_answers=times))

    async def preempt(self, cloud_id: str) -> None:
        folder = self.provider.room.folder_of(cloud_id)
        assert folder is not None
        folder.ask_preempt()
        await soon_true(lambda: self._has_ended(cloud_id), "the machine is taken back")

    async def _has_ended(self, cloud_id: str) -> bool:
        return {machine.cloud_id: machine.state for machine in await self.ledger()}[cloud_id] is MachineState.ENDED

    async def plant_foreign(self) -> str:
        order = self.order("somebody-elses")
        order = replace(order, tags={**order.tags, TAG_DEPLOYMENT: "theirs"})
        return (await self.provider.rent(order)).cloud_id

    async def settle(self) -> None:
        passing = {MachineState.STARTING, MachineState.ENDING}

        async def still() -> bool:
            return not passing & {machine.state for machine in await self.ledger()}

        await soon_true(still, "nothing starts and nothing ends")

    async def close(self) -> None:
        await asyncio.to_thread(self.provider.room.end_all)
        await self.settle()
        await self.provider.close()


@asynccontextmanager
async def open_market(folder: Path) -> AsyncIterator[FakeMarket]:
    """A cloud of one's own."""
    market = FakeMarket(folder)
    try:
        yield market
    finally:
        await market.close()
