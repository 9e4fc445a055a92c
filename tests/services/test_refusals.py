"""Refusals are shared by all servers through the database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from styx_server.core.machines.failover import Refusal
from styx_server.core.machines.offer import MachineSize, Offer, Place
from styx_server.core.machines.refusal import RefusalKind
from styx_server.embedded import PostgresAddress
from styx_server.services.refusals import (
    forget_refusals,
    load_blocks,
    note_preemption,
    note_refusal,
    note_success,
)
from styx_server.store.database import Database, connect

NOW = datetime(2026, 1, 5, 12, 0, 0, 123_456, tzinfo=UTC)
HERE = Place(provider="aws", region="us-east-1", zone="us-east-1a")
OFFER = Offer(
    place=HERE,
    machine_type="m5.large",
    size=MachineSize(cpus_milli=2000, memory_bytes=2**33),
    spot=True,
    price_micros=40_000,
)
CAPACITY = Refusal(kind=RefusalKind.CAPACITY, code="InsufficientInstanceCapacity", message="none there")


@pytest.fixture
async def store(database: PostgresAddress) -> AsyncIterator[Database]:
    store = await connect(**database.arguments())
    yield store
    await store.close()


async def test_what_one_server_notes_another_reads(store: Database) -> None:
    noted = [
        await note_refusal(store, OFFER, CAPACITY, NOW),
        await note_refusal(store, OFFER, Refusal(kind=RefusalKind.QUOTA), NOW),
        await note_refusal(store, OFFER, Refusal(kind=RefusalKind.CREDENTIALS), NOW),
        await note_preemption(store, HERE, NOW),
    ]
    blocks = await load_blocks(store)
    assert set(blocks) == set(noted)


async def test_strikes_go_on_from_what_is_stored(store: Database) -> None:
    first = await note_refusal(store, OFFER, CAPACITY, NOW)
    assert first is not None
    async with store.transaction() as transaction:
        second = await note_refusal(transaction, OFFER, CAPACITY, first.until)
    assert second is not None
    assert (second.strikes, second.until) == (2, first.until + timedelta(seconds=240))
    assert list(await load_blocks(store)) == [second]


async def test_what_blocks_nothing_is_not_stored(store: Database) -> None:
    assert await note_refusal(store, OFFER, Refusal(kind=RefusalKind.THROTTLED), NOW) is None
    assert len(await load_blocks(store)) == 0


async def test_a_success_is_shared_too(store: Database) -> None:
    await note_refusal(store, OFFER, CAPACITY, NOW)
    await note_refusal(store, OFFER, Refusal(kind=RefusalKind.PERMISSION), NOW)
    soft = await note_preemption(store, HERE, NOW)
    await note_success(store, OFFER)
    assert list(await load_blocks(store)) == [soft]
    await note_success(store, OFFER)


async def test_what_is_over_and_quiet_is_deleted(store: Database) -> None:
    await note_refusal(store, OFFER, CAPACITY, NOW)
    assert await forget_refusals(store, NOW + timedelta(seconds=3719)) == 0
    assert await forget_refusals(store, NOW + timedelta(seconds=3720)) == 1
    assert len(await load_blocks(store)) == 0
