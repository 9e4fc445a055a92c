"""Output that comes in: what is contiguous is stored, the rest asked for again, a finished log is what was written."""

from __future__ import annotations

import random

import pytest
import zstandard

from styx_server.core.session import Assignment, LogGap, LogStream
from styx_server.core.states import AttemptState
from styx_server.core.task import TaskId
from styx_server.services.log_codec import Codec, pack_times, unpack, unpack_times
from styx_server.services.log_intake import Append, Stored
from styx_server.services.log_reading import LogRequest
from styx_server.services.log_streams import Chunk, StreamKey
from tests.support.builders import NOW, exited
from tests.support.server import FakeAgent, Server, chunk, gathered, log_end, running, started
from tests.support.until import soon, soon_true

OUT, ERR = LogStream.STDOUT, LogStream.STDERR


def stored(end: int, *, rewind: bool = False) -> Stored:
    return Stored(end=end, rewind=rewind)


async def read(server: Server, task_id: TaskId, stream: LogStream = OUT) -> bytes:
    request = LogRequest(task_id=task_id, streams=(stream,))
    return b"".join([piece.data async for piece in server.app.logs.read(request)])


async def the_stream(server: Server) -> dict[str, object]:
    (row,) = await server.rows("select * from log_streams where stream = 1")
    return dict(row)


async def sealed(server: Server, *, corrupt: bool = False) -> None:
    """Waits for the judgement on the one stream of stdout."""
    for _ in range(500):
        row = await the_stream(server)
        if row["sealed"] or row["corrupt"]:
            break
        await server.app.clock.sleep(0.01)
    else:
        pytest.fail("the stream was never judged")
    assert (row["sealed"], row["corrupt"]) == (not corrupt, corrupt)


async def test_contiguous_chunks_are_stored_and_read_back(server: Server) -> None:
    agent, order = await server.one_running()
    assert await agent.writes(order, chunk(0, b"one "), chunk(4, b"two ")) == stored(8)
    assert await agent.writes(order, chunk(8, b"\x00\xff\n")) == stored(11)
    assert await read(server, order.task_id) == b"one two \x00\xff\n"


async def test_a_chunk_that_comes_twice_is_stored_once(server: Server) -> None:
    agent, order = await server.one_running()
    same = [agent.writes(order, chunk(0, b"once")) for _ in range(10)]
    assert await gathered(same) == [stored(4)] * 10
    assert await agent.writes(order, chunk(0, b"once"), chunk(4, b"more")) == stored(8)
    assert await read(server, order.task_id) == b"oncemore"


async def test_a_hole_is_not_stored_and_the_agent_is_told_where_to_go_on(server: Server) -> None:
    agent, order = await server.one_running()
    for start in (1, 1000):
        assert await agent.writes(order, chunk(start, b"far")) == stored(0, rewind=True)
    assert await server.rows("select 1 from log_chunks") == []


async def test_an_overlap_is_not_stored_and_the_agent_is_told_where_to_go_on(server: Server) -> None:
    agent, order = await server.one_running()
    await agent.writes(order, chunk(0, b"12345"))
    assert await agent.writes(order, chunk(3, b"4567")) == stored(5, rewind=True)
    assert await agent.writes(order, chunk(5, b"67")) == stored(7)
    assert await read(server, order.task_id) == b"1234567"


async def test_what_follows_a_hole_in_the_same_message_is_not_stored_either(server: Server) -> None:
    agent, order = await server.one_running()
    answer = await agent.writes(order, chunk(0, b"ab"), chunk(5, b"xy"), chunk(2, b"cd"))
    assert answer == stored(2, rewind=True)


async def test_an_empty_chunk_does_not_swallow_what_follows_it(server: Server) -> None:
    agent, order = await server.one_running()
    assert await agent.writes(order, chunk(0, b""), chunk(0, b"data")) == stored(4)
    assert await agent.writes(order, chunk(4, b"")) == stored(4)


async def test_compressed_chunks_are_kept_as_they_came(server: Server) -> None:
    agent, order = await server.one_running()
    raw = b"a line of output\n" * 1000
    packed = zstandard.compress(raw)
    piece = Chunk(start=0, length=len(raw), codec=Codec.ZSTD, data=packed)
    assert await agent.writes(order, piece) == stored(len(raw))
    (row,) = await server.rows("select data, length from log_chunks")
    assert (row["data"], row["length"]) == (packed, len(raw))
    assert await read(server, order.task_id) == raw
    assert await agent.ends(order, exited(0), [log_end(raw)])
    await sealed(server)


BAD_CHUNKS = [
    (5, Codec.ZSTD, b"no frame"),
    (5, Codec.ZSTD, zstandard.compress(b"longer than it says")),
    (50, Codec.ZSTD, zstandard.compress(b"shorter")),
    (5, Codec.IDENTITY, b"four"),
    (5, Codec.ZSTD, zstandard.compress(b"x" * 10**6)),
]


async def test_a_chunk_that_is_not_what_it_says_is_refused(server: Server) -> None:
    server.expected.add("log_chunk_bad")
    agent, order = await server.one_running()
    for length, codec, data in BAD_CHUNKS:
        bad = Chunk(start=0, length=length, codec=codec, data=data)
        assert await agent.writes(order, bad) == stored(0, rewind=True)
    assert await agent.writes(order, chunk(0, b"good")) == stored(4)


async def test_a_log_that_is_complete_and_right_is_sealed(server: Server) -> None:
    agent, order = await server.one_running()
    await agent.writes(order, chunk(0, b"all of it"))
    assert await agent.ends(order, exited(0), [log_end(b"all of it")])
    await sealed(server)
    details = await server.app.tasks.get(order.task_id)
    (stream,) = details.streams
    assert (stream.sealed, stream.stored, stream.total) == (True, 9, 9)


async def test_a_log_that_is_completed_after_the_end_is_sealed_then(server: Server) -> None:
    agent, order = await server.one_running()
    await agent.writes(order, chunk(0, b"all "))
    assert await agent.ends(order, exited(0), [log_end(b"all of it")])
    assert not (await the_stream(server))["sealed"]
    await agent.writes(order, chunk(4, b"of it"))
    await sealed(server)


async def test_a_log_that_starts_after_the_end_is_sealed_too(server: Server) -> None:
    agent, order = await server.one_running()
    assert await agent.ends(order, exited(0), [log_end(b"late")])
    await agent.writes(order, chunk(0, b"late"))
    await sealed(server)


async def test_a_log_that_differs_from_what_was_written_is_called_corrupt(server: Server) -> None:
    server.expected.add("log_corrupt")
    agent, order = await server.one_running()
    await agent.writes(order, chunk(0, b"stored"))
    assert await agent.ends(order, exited(0), [log_end(b"writte")])
    await sealed(server, corrupt=True)


async def test_a_gap_is_passed_over_and_recorded_once(server: Server) -> None:
    agent, order = await server.one_running()
    gap = LogGap(start=4, end=10, reason="spool_full")
    assert await agent.writes(order, chunk(0, b"head"), chunk(10, b"tail", gap=gap)) == stored(14)
    assert await agent.writes(order, chunk(10, b"tail", gap=gap)) == stored(14)
    row = await the_stream(server)
    assert row["gaps"] == [{"start": 4, "end": 10, "reason": "spool_full"}]
    end = log_end(b"headtail", total_bytes=14, gaps=(gap,))
    assert await agent.ends(order, exited(0), [end])
    await sealed(server)


async def test_a_gap_without_bytes_is_not_recorded_again_with_what_follows_it(server: Server) -> None:
    agent, order = await server.one_running()
    gap = LogGap(start=0, end=10, reason="spool_full")
    assert await agent.writes(order, chunk(10, b"", gap=gap)) == stored(10)
    assert await agent.writes(order, chunk(10, b"tail", gap=gap)) == stored(14)
    assert (await the_stream(server))["gaps"] == [{"start": 0, "end": 10, "reason": "spool_full"}]


async def test_a_gap_that_is_reported_before_its_chunk_is_recorded_once(server: Server) -> None:
    agent, order = await server.one_running()
    gap = LogGap(start=0, end=10, reason="spool_full")
    assert await agent.ends(order, exited(0), [log_end(b"tail", total_bytes=14, gaps=(gap,))])
    assert await agent.writes(order, chunk(10, b"tail", gap=gap)) == stored(14)
    await sealed(server)
    assert (await the_stream(server))["gaps"] == [{"start": 0, "end": 10, "reason": "spool_full"}]


async def test_a_gap_at_the_very_end_needs_no_bytes(server: Server) -> None:
    agent, order = await server.one_running()
    gap = LogGap(start=4, end=10, reason="spool_full")
    assert await agent.writes(order, chunk(0, b"head"), chunk(10, b"", gap=gap)) == stored(10)
    assert await agent.ends(order, exited(0), [log_end(b"head", total_bytes=10, gaps=(gap,))])
    await sealed(server)


async def test_a_gap_that_does_not_reach_its_chunk_hides_no_hole(server: Server) -> None:
    agent, order = await server.one_running()
    gap = LogGap(start=0, end=5, reason="spool_full")
    assert await agent.writes(order, chunk(100, b"far", gap=gap)) == stored(0, rewind=True)


async def test_the_two_streams_of_an_attempt_are_kept_apart(server: Server) -> None:
    agent, order = await server.one_running()
    await gathered([agent.writes(order, chunk(0, b"out")), agent.writes(order, chunk(0, b"err!"), stream=ERR)])
    await agent.ends(order, exited(1), [log_end(b"out"), log_end(b"err!", ERR)])
    assert await read(server, order.task_id) == b"out"
    assert await read(server, order.task_id, ERR) == b"err!"


async def test_a_server_that_starts_midway_goes_on_and_seals_from_the_store(server: Server) -> None:
    agent, order = await server.one_running()
    await agent.writes(order, chunk(0, b"before "))
    await agent.writes(order, chunk(7, b"the restart, "))
    async with running(server.address, checked=False) as second:
        again = FakeAgent(second, agent.agent_id)
        await again.connect(again.holds(order, AttemptState.RUNNING))
        assert await again.writes(order, chunk(0, b"before ")) == stored(20)
        assert await again.writes(order, chunk(20, b"and after")) == stored(29)
        assert await again.ends(order, exited(0), [log_end(b"before the restart, and after")])
        await sealed(second)
        assert await read(second, order.task_id) == b"before the restart, and after"


async def test_a_log_completed_while_nobody_looked_is_judged_by_the_loop(server: Server) -> None:
    agent, order = await server.one_running()
    await agent.writes(order, chunk(0, b"x" * 1000))
    digest = log_end(b"x" * 1000).sha256
    await server.rows("update log_streams set total_bytes = 1000, sha256 = $1", digest)
    await server.app.sealing.seal_leftovers()
    await sealed(server)


async def test_an_append_whose_answer_was_lost_is_not_stored_twice(server: Server) -> None:
    agent, order = await server.one_running()
    await agent.writes(order, chunk(0, b"first "))
    server.database.lose_answer("advance_streams")
    assert await agent.writes(order, chunk(6, b"second ")) == stored(13)
    assert await agent.writes(order, chunk(13, b"third")) == stored(18)
    assert await read(server, order.task_id) == b"first second third"
    assert await agent.ends(order, exited(0), [log_end(b"first second third")])
    await sealed(server)


async def test_a_stream_that_this_server_forgot_is_not_begun_again(server: Server) -> None:
    agent, order = await server.one_running()
    other = await agent.writes(order, chunk(0, b"errors "), stream=ERR)
    await agent.writes(order, chunk(0, b"stored "))
    server.app.streams.forget(StreamKey(order.task_id, 1, OUT))
    same = [agent.writes(order, chunk(0, b"stored ")), agent.writes(order, chunk(7, b"more"), stream=ERR)]
    assert await gathered(same) == [stored(7), stored(other.end + 4)]
    assert await agent.writes(order, chunk(7, b"and on")) == stored(13)
    assert await read(server, order.task_id) == b"stored and on"
    assert await read(server, order.task_id, ERR) == b"errors more"
    ends = [log_end(b"stored and on"), log_end(b"errors more", stream=ERR)]
    assert await agent.ends(order, exited(0), ends)
    await server.app.sealing.seal_leftovers()
    assert [row["corrupt"] for row in await server.rows("select corrupt from log_streams")] == [False, False]


async def test_many_streams_at_once_are_each_stored_whole(server: Server) -> None:
    agent = await server.agent()
    for name in "abcd":
        await server.submit(name=name)
    orders = list(await agent.takes(4))
    data = {order.fence: bytes([order.fence % 256]) * 50_000 for order in orders}

    async def write(order: Assignment) -> None:
        position = 0
        while position < 50_000:
            size = 1 + (position * 7919) % 9000
            answer = await agent.writes(order, chunk(position, data[order.fence][position : position + size]))
            assert not answer.rewind
            position = answer.end

    assert await gathered([write(order) for order in orders]) == [None] * 4
    for order in orders:
        assert await read(server, order.task_id) == data[order.fence]
        assert await agent.ends(order, exited(0), [log_end(data[order.fence])])
    await soon(server.app.news.over.empty, "all ends noted")


async def test_logs_that_are_complete_are_judged_together_and_hold_up_no_output(server: Server) -> None:
    agent = await server.agent()
    for name in "abcd":
        await server.submit(name=name)
    first, *others = await agent.takes(4)
    for order in (first, *others):
        await agent.writes(order, chunk(0, b"all"))
    with server.database.held("seal_streams") as gate:
        assert await agent.ends(first, exited(0), [log_end(b"all")])
        await gate.reached.wait()
        for order in others[:2]:
            assert await agent.ends(order, exited(0), [log_end(b"all")])
        await soon(lambda: server.app.sealing.commits.depth == 2, "two logs that wait")
        assert await agent.writes(others[2], chunk(3, b" of it")) == stored(9)
    assert await agent.ends(others[2], exited(0), [log_end(b"all of it")])

    async def all_sealed() -> bool:
        return len(await server.rows("select 1 from log_streams where sealed")) == 4

    await soon_true(all_sealed, "four seals")


async def test_any_order_of_sending_and_resending_gives_what_was_written(server: Server) -> None:
    agent, order = await server.one_running()
    dice = random.Random(7)  # noqa: S311 - a fixed shuffle
    written = dice.randbytes(20_000)
    position = 0
    for _ in range(150):
        start = max(0, position + dice.choice([0, 0, 0, -100, -3000, 50]))
        size = dice.choice([1, 10, 700])
        answer = await agent.writes(order, chunk(start, written[start : start + size]))
        assert answer.end >= position
        position = answer.end
    while position < len(written):
        position = (await agent.writes(order, chunk(position, written[position : position + 5000]))).end
    assert await read(server, order.task_id) == written
    assert await agent.ends(order, exited(0), [log_end(written)])
    await sealed(server)


async def test_chunks_lie_in_the_partition_of_their_day(server: Server) -> None:
    agent, order = await server.one_running()
    await agent.writes(order, chunk(0, b"today"))
    await agent.writes(order, chunk(5, b"long ago", times=pack_times([(0, NOW.replace(year=2020))])))
    rows = await server.rows("select tableoid::regclass::text as place, start_offset from log_chunks order by 2")
    today = f"log_chunks_{server.app.clock.now():%Y%m%d}"
    assert [row["place"] for row in rows] == [today, "log_chunks_default"]
    assert await read(server, order.task_id) == b"todaylong ago"


async def test_a_caller_who_leaves_does_not_stop_the_flush(server: Server) -> None:
    agent, order = await server.one_running()
    with server.database.held("advance_streams") as gate:
        append = Append(key=StreamKey(order.task_id, 1, OUT), fence=order.fence, chunks=(chunk(0, b"kept"),))
        call = started(server.app.intake.append(append))
        await gate.reached.wait()
        call.cancel()
        await gathered([call])
    assert await agent.writes(order, chunk(4, b"!")) == stored(5)
    assert await read(server, order.task_id) == b"kept!"


def test_packed_times_come_back() -> None:
    marks = [(0, NOW), (5, NOW.replace(microsecond=123_456)), (2**31 - 1, NOW)]
    assert unpack_times(pack_times(marks)) == marks


def test_unpacking_never_makes_more_than_it_was_told() -> None:
    bomb = zstandard.compress(b"\0" * 10**7)
    with pytest.raises(ValueError, match="chunk of log"):
        unpack(Codec.ZSTD, bomb, 100)
