"""Output that is read: every byte in order, from any place, while it comes, and what is missing said so."""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing
from datetime import timedelta

import pytest

from styx_server.core.errors import NotFound
from styx_server.core.session import LogGap, LogStream
from styx_server.core.states import OutcomeKind
from styx_server.core.task import Outcome, RetryPolicy, TaskId
from styx_server.services.log_codec import Codec, pack_times
from styx_server.services.log_reading import LogRequest, Piece
from styx_server.services.log_streams import LEAST_TAIL_BYTES, SHARED_TAIL_BYTES, Chunk, Tail, Tails
from tests.support.builders import NOW, exited
from tests.support.server import Server, chunk, log_end, started
from tests.support.until import soon

OUT, ERR = LogStream.STDOUT, LogStream.STDERR


async def pieces(server: Server, task_id: TaskId, **wanted: object) -> list[Piece]:
    request = LogRequest(task_id=task_id, **wanted)  # type: ignore[arg-type]
    return [piece async for piece in server.app.logs.read(request)]


def data_of(found: list[Piece], stream: LogStream = OUT, attempt: int = 1) -> bytes:
    return b"".join(piece.data for piece in found if piece.stream is stream and piece.attempt == attempt)


class Follower:
    """Somebody who follows a task beside the test."""

    def __init__(self, server: Server, task_id: TaskId, **wanted: object) -> None:
        self.pieces: list[Piece] = []
        self._request = LogRequest(task_id=task_id, follow=True, **wanted)  # type: ignore[arg-type]
        self._server = server
        self.task = started(self._follow())

    async def _follow(self) -> None:
        async with aclosing(self._server.app.logs.read(self._request)) as found:
            async for piece in found:
                self.pieces.append(piece)

    def data(self, stream: LogStream = OUT, attempt: int = 1) -> bytes:
        return data_of(self.pieces, stream, attempt)

    async def has(self, data: bytes, stream: LogStream = OUT) -> None:
        await soon(lambda: self.data(stream) == data, f"{data[:40]!r}")

    async def leaves(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def finishes(self) -> list[Piece]:
        await asyncio.wait_for(self.task, 20)
        return self.pieces


async def test_every_offset_gives_the_rest_from_there(server: Server) -> None:
    agent, order = await server.one_running()
    written = b"0123456789abcdef"
    await agent.writes(order, chunk(0, written[:5]), chunk(5, written[5:6]), chunk(6, written[6:]))
    for offset in range(len(written) + 1):
        found = await pieces(server, order.task_id, attempt=1, streams=(OUT,), offsets=(offset, 0))
        assert data_of(found) == written[offset:]
        assert [piece.start for piece in found[:1]] == [offset]


async def test_an_offset_behind_the_end_gives_nothing_and_ends(server: Server) -> None:
    agent, order = await server.one_running()
    await agent.writes(order, chunk(0, b"short"))
    found = await pieces(server, order.task_id, attempt=1, streams=(OUT,), offsets=(100, 0))
    assert [(piece.data, piece.last) for piece in found] == [(b"", True)]


async def test_every_stream_says_that_it_is_over_once(server: Server) -> None:
    agent, order = await server.one_running()
    await agent.writes(order, chunk(0, b"out"))
    found = await pieces(server, order.task_id)
    assert sorted(piece.stream for piece in found if piece.last) == [OUT, ERR]
    assert found[-1].last


async def test_an_attempt_that_is_not_there_is_not_found(server: Server) -> None:
    _, order = await server.one_running()
    for attempt in (2, 99):
        with pytest.raises(NotFound) as caught:
            await pieces(server, order.task_id, attempt=attempt)
        assert caught.value.reason == "ATTEMPT_NOT_FOUND"


async def test_a_task_that_is_not_there_is_not_found(server: Server) -> None:
    for follow in (False, True):
        with pytest.raises(NotFound, match="t999"):
            await pieces(server, TaskId(999), follow=follow)


async def test_a_task_without_attempts_has_no_output(server: Server) -> None:
    (task_id,) = await server.submit()
    assert await pieces(server, task_id) == []


async def test_both_streams_come_in_the_order_of_time(server: Server) -> None:
    agent, order = await server.one_running()
    for second, stream, position in [(1, OUT, 0), (2, ERR, 0), (3, ERR, 1), (4, OUT, 1), (5, ERR, 2)]:
        times = pack_times([(0, NOW + timedelta(seconds=second))])
        await agent.writes(order, chunk(position, str(second).encode(), times=times), stream=stream)
    found = await pieces(server, order.task_id)
    assert b"".join(piece.data for piece in found) == b"12345"


async def test_times_come_along_when_asked_for(server: Server) -> None:
    agent, order = await server.one_running()
    marks = [(0, NOW), (4, NOW + timedelta(seconds=1)), (8, NOW + timedelta(seconds=2))]
    await agent.writes(order, chunk(0, b"abc\ndef\nghi\n", times=pack_times(marks)))
    found = await pieces(server, order.task_id, streams=(OUT,), timestamps=True)
    assert found[0].times == marks
    found = await pieces(server, order.task_id, attempt=1, streams=(OUT,), timestamps=True, offsets=(6, 0))
    assert found[0].times == [(6, marks[1][1]), marks[2]]
    found = await pieces(server, order.task_id, streams=(OUT,))
    assert found[0].times == []


async def test_the_last_lines_are_found_whatever_the_chunks(server: Server) -> None:
    agent, order = await server.one_running()
    dice = random.Random(5)  # noqa: S311 - a fixed cut
    written = b""
    for ending in (b"", b"\n", b"\n\n", b"x"):
        more = b"\n".join(b"line %d" % number + b"x" * (number * 7 % 13) for number in range(8)) + ending
        while more:
            size = dice.randrange(1, 15)
            await agent.writes(order, chunk(len(written), more[:size]))
            written, more = written + more[:size], more[size:]
        for lines in (1, 2, 3, 5, 100):
            found = await pieces(server, order.task_id, streams=(OUT,), tail_lines=lines)
            assert data_of(found) == b"".join(written.splitlines(keepends=True)[-lines:]), (ending, lines)


async def test_the_last_lines_of_an_empty_log_are_none(server: Server) -> None:
    _, order = await server.one_running()
    assert data_of(await pieces(server, order.task_id, tail_lines=5)) == b""


async def test_a_gap_is_told_before_what_follows_it(server: Server) -> None:
    agent, order = await server.one_running()
    gap = LogGap(start=4, end=10, reason="spool_full")
    await agent.writes(order, chunk(0, b"head"), chunk(10, b"tail", gap=gap))
    found = await pieces(server, order.task_id, streams=(OUT,))
    assert [(piece.start, piece.data, piece.gaps) for piece in found if piece.data] == [
        (0, b"head", []),
        (10, b"tail", [gap]),
    ]


async def test_a_gap_is_told_to_who_starts_in_the_midst_of_it(server: Server) -> None:
    agent, order = await server.one_running()
    gap = LogGap(start=4, end=10, reason="spool_full")
    await agent.writes(order, chunk(0, b"head"), chunk(10, b"tail", gap=gap))
    found = await pieces(server, order.task_id, attempt=1, streams=(OUT,), offsets=(7, 0))
    assert [(piece.start, piece.data, piece.gaps) for piece in found if piece.data] == [(10, b"tail", [gap])]


@pytest.mark.parametrize("follow", [False, True])
async def test_a_gap_at_the_very_end_is_told(server: Server, follow: bool) -> None:
    agent, order = await server.one_running()
    gap = LogGap(start=4, end=10, reason="spool_full")
    await agent.writes(order, chunk(0, b"head"), chunk(10, b"", gap=gap))
    await agent.ends(order, exited(0), [log_end(b"head", total_bytes=10, gaps=(gap,))])
    found = await pieces(server, order.task_id, streams=(OUT,), follow=follow)
    assert [told for piece in found for told in piece.gaps] == [gap]
    assert found[-1].last


async def test_what_an_agent_took_with_it_is_told_as_missing(server: Server) -> None:
    agent, order = await server.one_running()
    await agent.writes(order, chunk(0, b"head"))
    await agent.ends(order, exited(0), [log_end(b"head and tail")])
    found = await pieces(server, order.task_id, streams=(OUT,))
    assert found[-1].gaps == [LogGap(start=4, end=13, reason="agent_lost")]


async def test_a_follower_sees_each_byte_as_it_comes_and_the_end(server: Server) -> None:
    agent, order = await server.one_running()
    await agent.writes(order, chunk(0, b"before "))
    follower = Follower(server, order.task_id)
    await follower.has(b"before ")
    await agent.writes(order, chunk(7, b"live "))
    await follower.has(b"before live ")
    await agent.writes(order, chunk(0, b"oops"), stream=ERR)
    await follower.has(b"oops", ERR)
    await agent.writes(order, chunk(12, b"last"))
    ends = [log_end(b"before live last"), log_end(b"oops", ERR)]
    assert await agent.ends(order, exited(0), ends)
    found = await follower.finishes()
    assert follower.data() == b"before live last"
    assert sorted(piece.stream for piece in found if piece.last) == [OUT, ERR]


async def test_a_follower_waits_for_output_that_comes_after_the_end(server: Server) -> None:
    agent, order = await server.one_running()
    follower = Follower(server, order.task_id, streams=(OUT,))
    assert await agent.ends(order, exited(0), [log_end(b"late")])
    assert not follower.task.done()
    await agent.writes(order, chunk(0, b"late"))
    await follower.finishes()
    assert follower.data() == b"late"


async def test_a_follower_of_a_task_that_writes_nothing_ends_with_it(server: Server) -> None:
    agent, order = await server.one_running()
    follower = Follower(server, order.task_id)
    assert await agent.ends(order, exited(0))
    found = await follower.finishes()
    assert [piece.last for piece in found] == [True, True]


async def test_a_follower_of_a_waiting_task_sees_it_start(server: Server) -> None:
    (task_id,) = await server.submit()
    follower = Follower(server, task_id)
    agent = await server.agent()
    (order,) = await agent.takes(1)
    await agent.starts(order)
    await agent.writes(order, chunk(0, b"hello"))
    await follower.has(b"hello")
    await agent.ends(order, exited(0), [log_end(b"hello")])
    await follower.finishes()


async def test_a_follower_of_a_task_that_is_cancelled_before_it_starts_ends(server: Server) -> None:
    (task_id,) = await server.submit()
    follower = Follower(server, task_id)
    await server.cancel(task_id)
    assert await follower.finishes() == []


async def test_a_follower_goes_on_with_the_next_attempt_from_its_start(server: Server) -> None:
    agent, order = await server.one_running(retry=RetryPolicy(max_retries=1, backoff_seconds=0))
    await agent.writes(order, chunk(0, b"one\ntwo\nthree\n"))
    follower = Follower(server, order.task_id, streams=(OUT,), tail_lines=1)
    await follower.has(b"three\n")
    await agent.ends(order, exited(1), [log_end(b"one\ntwo\nthree\n")])
    second = (await agent.takes(2))[1]
    # All of it is there before the follower looks: still nothing of a later attempt is passed over.
    await agent.writes(second, chunk(0, b"four\nfive\n"))
    await agent.starts(second)
    await agent.ends(second, exited(0), [log_end(b"four\nfive\n")])
    await follower.finishes()
    assert follower.data(attempt=2) == b"four\nfive\n"


async def test_a_follower_of_one_attempt_ends_with_it(server: Server) -> None:
    agent, order = await server.one_running(retry=RetryPolicy(max_retries=1, backoff_seconds=0))
    follower = Follower(server, order.task_id, attempt=1)
    await agent.ends(order, exited(1))
    await follower.finishes()
    assert {piece.attempt for piece in follower.pieces} == {1}


async def test_several_followers_see_the_same_and_leave_when_they_want(server: Server) -> None:
    agent, order = await server.one_running()
    followers = [Follower(server, order.task_id, streams=(OUT,)) for _ in range(5)]
    written = b""
    for number in range(20):
        line = b"line %d\n" % number
        await agent.writes(order, chunk(len(written), line))
        written += line
    for follower in followers:
        await follower.has(written)
    for follower in followers[1:]:
        await follower.leaves()
    await agent.writes(order, chunk(len(written), b"end"))
    await agent.ends(order, exited(0), [log_end(written + b"end")])
    await followers[0].finishes()
    assert followers[0].data() == written + b"end"
    assert server.app.streams._outputs == {}
    (state, *_) = [state for state in server.app.streams._states.values() if state.stored]
    assert state.followers == 0


async def test_the_agent_is_told_while_somebody_looks(server: Server) -> None:
    agent, order = await server.one_running()
    one, other = Follower(server, order.task_id), Follower(server, order.task_id)
    await soon(lambda: len(agent.interests) == 2, "interest of two")
    await one.leaves()
    assert agent.interests[-1] == [order.fence]
    await other.leaves()
    assert agent.interests[-1] == []


async def test_a_reader_who_is_far_behind_reads_from_the_store_what_memory_dropped(server: Server) -> None:
    agent, order = await server.one_running()
    request = LogRequest(task_id=order.task_id, streams=(OUT,), follow=True)
    block = random.Random(1).randbytes(1 << 18)  # noqa: S311 - fixed bytes
    await agent.writes(order, chunk(0, block))
    async with aclosing(server.app.logs.read(request)) as found:
        got = (await anext(found)).data
        position = len(block)
        while position < SHARED_TAIL_BYTES // 2:
            await agent.writes(order, chunk(position, block))
            position += len(block)
        await agent.ends(order, exited(0), [log_end(block * (position // len(block)))])
        got += b"".join([piece.data async for piece in found])
    assert got == block * (position // len(block))


async def test_memory_keeps_output_for_as_long_as_somebody_follows(server: Server) -> None:
    agent, order = await server.one_running()
    streams = server.app.streams
    await agent.writes(order, chunk(0, b"nobody looks"))
    assert streams.kept_bytes == 0
    one, other = Follower(server, order.task_id, streams=(OUT,)), Follower(server, order.task_id, streams=(OUT,))
    await one.has(b"nobody looks")
    await other.has(b"nobody looks")
    await agent.writes(order, chunk(12, b", two do"))
    await one.leaves()
    assert streams.kept_bytes > 0
    await other.leaves()
    assert streams.kept_bytes == 0


def test_tails_share_their_room_and_each_keeps_a_little() -> None:
    tails = Tails()
    some = [Tail() for _ in range(100)]
    for tail in some:
        for start in range(0, SHARED_TAIL_BYTES, 1 << 18):
            tails.extend(tail, [Chunk(start=start, length=1 << 18, codec=Codec.IDENTITY, data=b"")])
    assert some[0].size > SHARED_TAIL_BYTES / 4
    assert min(tail.size for tail in some) > LEAST_TAIL_BYTES / 2
    assert tails.size < SHARED_TAIL_BYTES + len(some) * LEAST_TAIL_BYTES
    for tail in some:
        tails.drop(tail)
    assert tails.size == 0


async def test_a_follower_loses_nothing_when_bytes_arrive_while_it_looks_behind_a_gap(server: Server) -> None:
    agent, order = await server.one_running()
    gap = LogGap(start=0, end=10, reason="spool_full")
    await agent.writes(order, chunk(10, b"", gap=gap))
    with server.database.held("read_chunks", answered=True) as gate:
        follower = Follower(server, order.task_id, streams=(OUT,))
        await gate.reached.wait()
        await agent.writes(order, chunk(10, b"not to be missed"))
    await follower.has(b"not to be missed")
    await follower.leaves()


async def test_a_follower_survives_a_stream_that_is_read_anew(server: Server) -> None:
    agent, order = await server.one_running()
    await agent.writes(order, chunk(0, b"one "))
    follower = Follower(server, order.task_id, streams=(OUT,))
    await follower.has(b"one ")
    server.database.lose_answer("advance_streams")
    await agent.writes(order, chunk(4, b"two "))
    await agent.writes(order, chunk(8, b"three"))
    await follower.has(b"one two three")
    await agent.ends(order, exited(0), [log_end(b"one two three")])
    await follower.finishes()


async def test_a_stored_log_reads_the_same_on_another_server(server: Server) -> None:
    agent, order = await server.one_running()
    await agent.writes(order, chunk(0, b"kept"))
    await agent.ends(order, Outcome(kind=OutcomeKind.SIGNALED, signal=9), [log_end(b"kept")])
    for key in list(server.app.streams._states):
        server.app.streams.forget(key)
    assert data_of(await pieces(server, order.task_id, follow=True)) == b"kept"
