"""Remembers where machines were refused, in the database, so that all that wait and all servers learn from one try."""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from styx_server.clock import Clock
from styx_server.core.machines.failover import Block, BlockKey, Blocks, Refusal
from styx_server.core.machines.offer import Offer, Place
from styx_server.providers.ports import ProviderError
from styx_server.store.database import Database, Row

_log = structlog.get_logger()


class Refusals:
    """What is not to be tried now.

    Attributes:
        blocks: as they were read last, with what happened here since.
    """

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self.blocks = Blocks()

    async def read(self) -> None:
        """Reads what all servers know.

        Raises:
            Unavailable: the database is away.
        """
        self.blocks = Blocks(_block(row) for row in await self._database.fetch("read_refusals"))
        await self._drop(self.blocks.forget(self._clock.now()))

    async def refused(self, offer: Offer, error: ProviderError) -> None:
        """An offer was refused."""
        refusal = Refusal(
            kind=error.kind,
            scope=error.scope,
            code=error.code,
            message=error.message,
            retry_after_seconds=error.retry_after_seconds,
        )
        block = self.blocks.refuse(offer, refusal, self._clock.now())
        if block is not None:
            await self._put(block)

    async def granted(self, offer: Offer) -> None:
        """An offer was good."""
        await self._drop(self.blocks.succeed(offer))

    async def preempted(self, place: Place) -> None:
        """A spot machine was taken back."""
        await self.read()  # on a server that rents nothing, nobody else does
        await self._put(self.blocks.preempt(place, self._clock.now()))

    async def _put(self, block: Block) -> None:
        _log.info("offer_blocked", kind=block.kind, until=block.until.isoformat(), **block.key._asdict())
        words = {"kind": block.kind, "code": block.code, "message": block.message, "strikes": block.strikes}
        await self._database.execute(
            "put_refusal", **block.key._asdict(), **words, time=block.time, until_time=block.until
        )

    async def _drop(self, keys: Iterable[BlockKey]) -> None:
        for key in keys:
            await self._database.execute("drop_refusal", **key._asdict())


def _block(row: Row) -> Block:
    key = BlockKey(row["provider"], row["region"], row["zone"], row["machine_type"], row["spot"])
    return Block(
        key=key,
        kind=row["kind"],
        code=row["code"],
        message=row["message"],
        strikes=row["strikes"],
        time=row["time"],
        until=row["until_time"],
    )
