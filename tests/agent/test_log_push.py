"""Output on its way from a real agent to a scripted server: whole, in order, again when it must."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from styx.agent.v1 import agent_service_pb2 as wire
from styx.v1 import tasks_pb2
from tests.support.agent_process import AgentProcess, feed, fifo_of
from tests.support.scripted_server import ScriptedServer, scripted_server
from tests.support.until import soon

AGENT_WINDOW = 8 << 20
CHUNK = 256 << 10


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with scripted_server() as (service, port):
        service.port = port  # type: ignore[attr-defined]
        yield service


@pytest.fixture
async def agent(server: ScriptedServer, data_dir: Path) -> AsyncIterator[AgentProcess]:
    process = AgentProcess(data_dir, server.port)  # type: ignore[attr-defined]
    process.start()
    try:
        await soon(lambda: bool(server.sessions), "a session")
        yield process
    finally:
        await process.close()


@pytest.mark.usefixtures("agent")
async def test_much_output_arrives_byte_for_byte(server: ScriptedServer) -> None:
    size = 40 << 20
    fence = server.assign(f"head -c {size} /dev/urandom | tee copy; sha256sum copy >&2; seq 200000")
    await soon(lambda: server.complete(fence), "end and output", seconds=60)
    assert hashlib.sha256(server.stdout(fence)[:size]).hexdigest().encode() == server.stderr(fence).split()[0]
    assert all(sum(chunk.length for chunk in push.chunks) <= 1 << 20 for push in server.pushes)
    assert all(chunk.length <= 256 << 10 for push in server.pushes for chunk in push.chunks)
    codecs = {chunk.codec for push in server.pushes for chunk in push.chunks}
    assert codecs == {wire.LogChunk.IDENTITY, wire.LogChunk.ZSTD}


@pytest.mark.usefixtures("agent")
async def test_one_stream_fills_two_thirds_of_the_window_and_leaves_room_for_others(server: ScriptedServer) -> None:
    server.ack_logs = False
    noisy = server.assign(f"head -c {10 << 20} /dev/urandom")

    def sent(fence: int) -> int:
        return sum(chunk.length for push in server.pushes for chunk in push.chunks if chunk.fence == fence)

    await soon(lambda: sent(noisy) > AGENT_WINDOW * 2 / 3, "its share of the window")
    await soon(lambda: server.ended(noisy), "its end")
    quiet = server.assign("echo here I am")
    await soon(lambda: sent(quiet) > 0, "output of another")
    assert sent(noisy) <= AGENT_WINDOW * 2 / 3 + CHUNK


@pytest.mark.usefixtures("agent")
async def test_a_stream_of_output_that_breaks_alone_is_opened_again(server: ScriptedServer) -> None:
    server.broken_pushes = 2
    fence = server.assign("echo one; echo two >&2")
    await soon(lambda: server.complete(fence), "end and output")
    assert (server.stdout(fence), server.stderr(fence)) == (b"one\n", b"two\n")
    assert len(server.sessions) == 1


@pytest.mark.usefixtures("agent")
async def test_a_rewind_is_followed(server: ScriptedServer) -> None:
    refused: list[int] = []

    def lose_some(chunk: wire.LogChunk) -> wire.LogAck | None:
        if chunk.offset >= 1 << 20 and len(refused) < 3:
            refused.append(chunk.offset)
            durable = len(server.stdout(chunk.fence))
            return wire.LogAck(fence=chunk.fence, stream=chunk.stream, durable_offset=durable, rewind=True)
        return None

    server.log_answer = lose_some
    fence = server.assign(f"head -c {5 << 20} /dev/urandom")
    await soon(lambda: server.complete(fence), "end and output")
    assert len(refused) == 3


async def test_output_goes_on_from_where_the_server_stands(server: ScriptedServer, agent: AgentProcess) -> None:
    fence = server.assign("echo 1; read line < fifo; echo 2; read line < fifo; echo 3", setup="mkfifo fifo")
    await soon(lambda: server.stdout(fence) == b"1\n", "the first line")
    fifo = fifo_of(agent)
    server.ack_logs = False
    feed(fifo, b"go\n")
    await soon(lambda: server.pushes[-1].chunks[-1].offset == 2, "the second line is sent")
    server.session.cut()
    await soon(lambda: len(server.sessions) == 2, "a new session")
    server.ack_logs = True
    server.session.cut()
    feed(fifo, b"go\n")
    await soon(lambda: server.complete(fence), "end and output")
    assert server.stdout(fence) == b"1\n2\n3\n"


@pytest.mark.usefixtures("agent")
async def test_dropped_ranges_are_told(server: ScriptedServer) -> None:
    server.ack_logs = False
    size = 6 << 20
    logs = tasks_pb2.LogPolicy(when_full=tasks_pb2.LogPolicy.DROP, spool_bytes=1 << 20)
    fence = server.assign(f"head -c {size} /dev/urandom", logs=logs)
    await soon(lambda: server.ended(fence), "its end")
    server.ack_logs = True
    server.session.cut()
    await soon(lambda: server.complete(fence), "what was kept")
    assert [gap.reason for gap in server.gaps] == ["spool_full"] * len(server.gaps)
    assert [(g.start_offset, g.end_offset) for g in server.gaps] == [
        (g.start_offset, g.end_offset) for g in server.attempts[fence].logs[0].gaps
    ]


async def test_what_nobody_wants_is_killed(server: ScriptedServer, agent: AgentProcess) -> None:
    server.log_answer = lambda chunk: wire.LogAck(fence=chunk.fence, stream=chunk.stream, unknown=True)
    fence = server.assign("while :; do echo x; sleep 0.01; done")
    await soon(lambda: bool(server.pushes), "output")
    await soon(lambda: not os.listdir(agent.data_dir / "attempts"), "its files are gone")
    assert not server.ended(fence)


@pytest.mark.usefixtures("agent")
async def test_time_marks_come_along(server: ScriptedServer) -> None:
    fence = server.assign("echo a; sleep 0.1; echo b")
    await soon(lambda: server.complete(fence), "end and output")
    chunks = [chunk for push in server.pushes for chunk in push.chunks]
    assert all(chunk.time_offsets[0] == 0 for chunk in chunks)
    assert all(len(chunk.time_offsets) == len(chunk.time_ages_micros) for chunk in chunks)
    marks = [
        (chunk.offset + at, age)
        for chunk in chunks
        for at, age in zip(chunk.time_offsets, chunk.time_ages_micros, strict=True)
    ]
    assert {offset for offset, _ in marks} == {0, 2}
    assert all(0 <= age < 10_000_000 for _, age in marks)


async def test_output_that_somebody_looks_at_comes_sooner(server: ScriptedServer, agent: AgentProcess) -> None:
    fence = server.assign("for i in 1 2 3 4 5 6 7 8 9 10; do echo $i; sleep 0.05; done; exec sleep 600")
    await soon(lambda: server.stdout(fence).count(b"\n") == 10, "ten lines, at leisure")
    lazy = len(server.pushes)
    slow_lines = "for i in 1 2 3 4 5 6 7 8 9 10; do echo $i; sleep 0.05; done"
    other = server.assign(f"read line < fifo; {slow_lines}", setup="mkfifo fifo")
    await soon(lambda: server.running(other), "its start")
    server.session.send(log_interest=wire.LogInterest(fences=[other]))
    feed(fifo_of(agent), b"go\n")
    await soon(lambda: server.complete(other), "ten lines, at once")
    assert lazy <= 6
    assert len(server.pushes) - lazy >= 9
