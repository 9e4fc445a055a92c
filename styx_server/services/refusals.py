"""Refusals of providers, shared by all servers: read, decide (`core/machines/failover.py`), write.

Functions over an executor, so that a refusal is stored in the transaction that stores what became of the instance. Two
servers that note the same at once count it once: both decide from what they read.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from styx_server.core.machines.failover import Block, BlockKey, Blocks, Refusal
from styx_server.core.machines.offer import Offer, Place
from styx_server.store.catalog_rows import block_from_row, block_to_row
from styx_server.store.database import Executor


async def load_blocks(executor: Executor) -> Blocks:
    """All that is remembered."""
    return Blocks([block_from_row(row) for row in await executor.fetch("list_refusals")])


async def note_refusal(executor: Executor, offer: Offer, refusal: Refusal, now: datetime) -> Block | None:
    """Remembers that `offer` was refused; returns what is blocked now, None when nothing is."""
    return await _store(executor, (await load_blocks(executor)).refuse(offer, refusal, now))


async def note_preemption(executor: Executor, place: Place, now: datetime) -> Block:
    """Remembers that a spot machine was taken back in `place`."""
    block = (await load_blocks(executor)).preempt(place, now)
    await _store(executor, block)
    return block


async def note_success(executor: Executor, offer: Offer) -> None:
    """Forgets what a successful rent disproves."""
    await _delete(executor, (await load_blocks(executor)).succeed(offer))


async def forget_refusals(executor: Executor, now: datetime) -> int:
    """Forgets what is over and was quiet for long; returns how many."""
    keys = (await load_blocks(executor)).forget(now)
    await _delete(executor, keys)
    return len(keys)


async def _store(executor: Executor, block: Block | None) -> Block | None:
    if block is not None:
        await executor.execute("upsert_refusal", **block_to_row(block))
    return block


async def _delete(executor: Executor, keys: Iterable[BlockKey]) -> None:
    columns = list(zip(*keys, strict=True))
    if columns:
        names = ("providers", "regions", "zones", "machine_types", "spots")
        await executor.execute("delete_refusals", **dict(zip(names, columns, strict=True)))
