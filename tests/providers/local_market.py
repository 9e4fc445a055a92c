"""The double of `local`: real keepers, light stand-ins for agents, and an operating system that can be told to refuse.

What it does not model: an answer cannot be lost, because it is a return value; there are no spot machines. The agents
here are no agents; `test_local.py` rents real ones.
"""

from __future__ import annotations

import asyncio
import errno
import os
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
from styx_server.providers.local import NAME, REGION, LocalProvider, sizes
from styx_server.providers.processes.folder import MachineFolder
from styx_server.providers.processes.room import MachineRoom
from tests.providers.standing_in import StandIns
from tests.support.until import soon_true

_ERRNOS = {
    RefusalKind.CAPACITY: errno.ENOSPC,
    RefusalKind.QUOTA: errno.EDQUOT,
    RefusalKind.PERMISSION: errno.EACCES,
    RefusalKind.UNAVAILABLE: errno.EIO,
}


class LocalMarket:
    """This computer, and a hand on its kernel."""

    def __init__(self, folder: Path, stand_ins: StandIns | None = None) -> None:
        self.deployment = "ours"
        self.root = folder / "local"
        self.stand_ins = stand_ins or StandIns(folder / "stand-in")
        self.provider = LocalProvider(self.root, max_machines=10, start=self._start)
        self._room = MachineRoom(self.root, name=NAME)
        self._refusals: list[int] = []

    def order(self, key: str, *, number: int = 1, spot: bool = False) -> RentOrder:
        if spot:
            raise LookupError("nobody takes a process back")
        name, size = list(sizes().items())[-1]
        return RentOrder(
            instance_id=InstanceId(number),
            key=key,
            offer=Offer(
                place=Place(provider=NAME, region=REGION), machine_type=name, size=size, spot=False, price_micros=0
            ),
            tags={TAG_DEPLOYMENT: self.deployment, TAG_KEY: key},
            boot=Boot(server_urls=("http://127.0.0.1:9",), join_token="once", agent_name=key),
        )

    async def ledger(self) -> Sequence[CloudMachine]:
        return await asyncio.to_thread(self._room.machines)

    async def refuse(self, kind: RefusalKind, times: int = 1) -> None:
        if kind not in _ERRNOS:
            raise LookupError("the operating system has no such error")
        self._refusals += [_ERRNOS[kind]] * times

    async def lose_answer(self, times: int = 1) -> None:
        del times
        raise LookupError("the answer is a return value")

    async def preempt(self, cloud_id: str) -> None:
        del cloud_id
        raise LookupError("nobody takes a process back")

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
        await asyncio.to_thread(self._room.end_all)
        await self.settle()
        await self.provider.close()

    def _start(self, folder: MachineFolder, lock: int, *words: str) -> None:
        if self._refusals:
            number = self._refusals.pop()
            raise OSError(number, os.strerror(number))
        self.stand_ins.start(folder, lock, *words)


@asynccontextmanager
async def open_market(folder: Path, stand_ins: StandIns | None = None) -> AsyncIterator[LocalMarket]:
    """A computer of one's own."""
    market = LocalMarket(folder, stand_ins)
    try:
        yield market
    finally:
        await market.close()
