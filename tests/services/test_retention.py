"""What is old goes a day at a time, never what belongs to a task that lives, and whoever asks for it is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from styx_server.clock import now
from styx_server.core.errors import OutOfRange
from styx_server.core.filter import parse_filter
from styx_server.core.session import LogGap, LogStream
from styx_server.core.task import TaskId
from styx_server.embedded import PostgresAddress
from styx_server.services.feed import Cursor, WatchRequest
from styx_server.services.log_reading import LogRequest, Piece
from styx_server.store.retention import drop_expired, forget_requests
from tests.support.builders import exited
from tests.support.server import Server, chunk, log_end, running

OLD = "2020-01-02"


@pytest.fixture
async def aged(database: PostgresAddress) -> AsyncIterator[Server]:
    """A server with a day of long ago; a history with a hole in it fails the usual invariants."""
    async with running(database, checked=False) as server:
        for table in ("task_events", "log_chunks"):
            await server.rows(
                f"create table {table}_20200102 partition of {table} "
                f"for values from ('{OLD} 00:00+00') to ('2020-01-03 00:00+00')"
            )
        yield server


async def grow_old(server: Server, table: str, condition: str = "true") -> None:
    """Rows are of that day."""
    await server.rows(f"update {table} set time = '{OLD} 12:00+00' where {condition}")  # noqa: S608


async def drop(server: Server, days: int = 30) -> list[str]:
    return await drop_expired(server.database, now(), days=days)


async def logged(server: Server, *parts: bytes) -> TaskId:
    """A task that wrote these and ended."""
    agent, order = await server.one_running()
    start = 0
    for part in parts:
        await agent.writes(order, chunk(start, part))
        start += len(part)
    assert await agent.ends(order, exited(0), [log_end(b"".join(parts))])
    return order.task_id


async def read(server: Server, task_id: TaskId) -> list[Piece]:
    wanted = LogRequest(task_id=task_id, streams=(LogStream.STDOUT,))
    return [piece async for piece in server.app.logs.read(wanted)]


async def test_an_old_day_is_dropped_and_the_others_stay(aged: Server) -> None:
    await logged(aged, b"bytes")
    assert sorted(await drop(aged)) == ["log_chunks_20200102", "task_events_20200102"]
    assert await drop(aged) == []
    assert len(await aged.rows("select 1 from log_chunks")) == 1


async def test_a_day_of_a_task_that_lives_is_kept(aged: Server) -> None:
    agent, order = await aged.one_running()
    await agent.writes(order, chunk(0, b"bytes"))
    await grow_old(aged, "task_events")
    await grow_old(aged, "log_chunks")
    assert await drop(aged) == []
    await agent.ends(order, exited(0), [log_end(b"bytes")])
    assert len(await drop(aged)) == 2


async def test_a_clock_that_is_far_ahead_takes_nothing_away(aged: Server) -> None:
    await logged(aged, b"bytes")
    dropped = await drop_expired(aged.database, now() + timedelta(days=10_000), days=30)
    assert sorted(dropped) == ["log_chunks_20200102", "task_events_20200102"]


async def test_output_that_is_gone_is_told_as_a_gap_before_what_is_left(aged: Server) -> None:
    task_id = await logged(aged, b"first", b"second", b"third")
    await grow_old(aged, "log_chunks", "start_offset in (0, 5)")
    await drop(aged)
    first = (await read(aged, task_id))[0]
    assert (first.start, first.data) == (11, b"third")
    assert first.gaps == [LogGap(start=0, end=11, reason="expired")]


async def test_output_of_which_nothing_is_left_is_told_as_a_gap_at_the_end(aged: Server) -> None:
    task_id = await logged(aged, b"first", b"second")
    await grow_old(aged, "log_chunks")
    await drop(aged)
    (last,) = await read(aged, task_id)
    assert last.last
    assert last.gaps == [LogGap(start=0, end=11, reason="expired")]


async def test_a_hole_in_the_midst_is_told_where_it_is(aged: Server) -> None:
    task_id = await logged(aged, b"first", b"second", b"third")
    await grow_old(aged, "log_chunks", "start_offset = 5")
    await drop(aged)
    found = await read(aged, task_id)
    assert [piece.data for piece in found if piece.data] == [b"first", b"third"]
    assert [gap for piece in found for gap in piece.gaps] == [LogGap(start=5, end=11, reason="expired")]


async def test_a_cursor_before_what_was_dropped_is_refused_and_a_later_one_is_not(aged: Server) -> None:
    await logged(aged, b"bytes")
    row = (await aged.rows("select txid::text, seq from task_events order by txid, seq"))[0]
    await grow_old(aged, "task_events")
    await drop(aged)
    with pytest.raises(OutOfRange) as caught:
        await synced(aged, Cursor(txid=int(row["txid"]), seq=row["seq"]))
    assert caught.value.reason == "CURSOR_EXPIRED"
    later = await synced(aged, None)
    assert await synced(aged, later) == later


async def synced(server: Server, cursor: Cursor | None) -> Cursor:
    """Watches up to the point from which only changes come."""
    wanted = WatchRequest(
        namespace="default", task_ids=(), filter=parse_filter(""), cursor=cursor, changes_only=cursor is not None
    )
    watch = server.app.feed.watch(wanted)
    async for change in watch:
        if change.synced:
            await watch.aclose()
            return change.cursor
    raise AssertionError("the watch ended")


async def test_request_ids_are_remembered_for_a_week(aged: Server) -> None:
    old = await aged.submit(request_id="old")
    fresh = await aged.submit(request_id="fresh")
    await aged.rows("update requests set create_time = now() - interval '6 days'")
    assert not await forget_requests(aged.database)
    assert await aged.submit(request_id="old") == old
    await aged.rows("update requests set create_time = now() - interval '8 days' where request_id = 'old'")
    assert not await forget_requests(aged.database)
    assert await aged.submit(request_id="old") != old
    assert await aged.submit(request_id="fresh") == fresh
