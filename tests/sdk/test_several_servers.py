"""The client with several addresses: it uses any, leaves the bad one, and goes on where it was."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

import styx
from styx import errors
from styx.models import LogStream
from styx.retry import RetrySettings
from styx.rotation import Rotation
from tests.support.memory_service import TOKEN, Fault, MemoryService, serving

QUICK = RetrySettings(first_wait_seconds=0.01, longest_wait_seconds=0.05, budget_seconds=10.0)


class Replicas:
    """One service behind several servers, as replicas of one database are."""

    def __init__(self, folder: Path) -> None:
        self.service = MemoryService()
        self._folder = folder
        self._ports: dict[str, int] = {}
        self._stacks: dict[str, AsyncExitStack] = {}

    async def start(self, name: str) -> str:
        """Starts it, again if it has been there before; its address stays."""
        stack = self._stacks[name] = AsyncExitStack()
        server = serving(self._folder / name, grpc_port=self._ports.get(name, 0), replica_of=self.service)
        address = (await stack.enter_async_context(server)).grpc_address
        self._ports[name] = int(address.rpartition(":")[2])
        return f"grpc://{address}"

    async def kill(self, name: str) -> None:
        """It is gone, and every call and stream on it is cut."""
        await self._stacks.pop(name).aclose()

    async def close(self) -> None:
        for name in list(self._stacks):
            await self.kill(name)
        await self.service.close()


@pytest.fixture
async def replicas(tmp_path: Path) -> AsyncIterator[Replicas]:
    replicas = Replicas(tmp_path)
    yield replicas
    await replicas.close()


@pytest.mark.parametrize("dead", ["a", "b"])
async def test_a_client_moves_when_its_server_dies(replicas: Replicas, dead: str) -> None:
    urls = [await replicas.start("a"), await replicas.start("b")]
    async with styx.AsyncClient(urls, TOKEN, retry=QUICK) as client:
        assert await client.submit_task("true") == "t1"
        await replicas.kill(dead)
        assert await client.submit_task("true") == "t2"


async def test_output_goes_on_at_another_server(replicas: Replicas) -> None:
    urls = [await replicas.start("a"), await replicas.start("b")]
    victims = itertools.cycle(["a", "b"])
    async with styx.AsyncClient(urls, TOKEN, retry=QUICK) as client:
        task_id = await client.submit_task("seq 200000; seq 200000 >&2")
        read = {LogStream.STDOUT: bytearray(), LogStream.STDERR: bytearray()}
        next_kill = 0
        async with aclosing(client.logs(task_id, follow=True)) as chunks:
            async for chunk in chunks:
                read[chunk.stream] += chunk.data
                if sum(map(len, read.values())) > next_kill:
                    next_kill += 500_000
                    victim = next(victims)
                    await replicas.kill(victim)
                    await replicas.start(victim)
    expected = b"".join(b"%d\n" % number for number in range(1, 200001))
    assert read == {LogStream.STDOUT: expected, LogStream.STDERR: expected}
    assert next_kill > 2_000_000


@pytest.mark.parametrize("dead", ["a", "b"])
async def test_a_wait_goes_on_at_another_server(replicas: Replicas, dead: str) -> None:
    urls = [await replicas.start("a"), await replicas.start("b")]
    async with styx.AsyncClient(urls, TOKEN, retry=QUICK) as client, asyncio.TaskGroup() as group:
        task_id = await client.submit_task("sleep 0.3; exit 4")
        ended = group.create_task(client.wait(task_id))
        await replicas.kill(dead)
        assert (await ended).exit_code == 4


async def test_what_one_server_cannot_reach_is_asked_of_another(replicas: Replicas) -> None:
    urls = [await replicas.start("a"), await replicas.start("b")]
    replicas.service.faults.append(Fault("SubmitTask", after_commit=True))
    replicas.service.faults.append(Fault("SubmitTask", code=grpc.StatusCode.UNAVAILABLE))
    async with styx.AsyncClient(urls, TOKEN, retry=QUICK) as client:
        assert await client.submit_task("true") == "t1"
    assert len({request.request_id for name, request in replicas.service.calls if name == "SubmitTask"}) == 1
    assert len(replicas.service.tasks) == 1


async def test_when_all_are_away_all_are_named(tmp_path: Path) -> None:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        urls = [f"http://127.0.0.1:{each.getsockname()[1]}" for each in (one, other)]
        async with styx.AsyncClient(",".join(urls), "x", data_dir=tmp_path) as client:
            with pytest.raises(errors.ServerUnreachable) as failure:
                await client.server_info()
    assert all(url in str(failure.value) for url in urls)


async def test_a_mistake_in_any_address_is_told_at_once(replicas: Replicas) -> None:
    url = await replicas.start("a")
    for _ in range(4):
        async with styx.AsyncClient([url, "ftp://b"], TOKEN) as client:
            with pytest.raises(errors.InvalidAddress, match="ftp"):
                await client.server_info()


@given(st.integers(1, 6), st.lists(st.tuples(st.integers(0, 5), st.floats(0, 60)), max_size=12), st.floats(0, 0.999))
def test_every_place_is_tried_and_the_bad_ones_last(
    count: int, failures: list[tuple[int, float]], fraction: float
) -> None:
    now = [0.0]
    rotation = Rotation(range(count), now=lambda: now[0], fraction=lambda: fraction)
    failed_at: dict[int, float] = {}
    for place, later in failures:
        now[0] += later
        if place < count:
            rotation.failed(place)
            failed_at[place] = now[0]
    order = rotation.order()
    assert sorted(order) == list(range(count))
    avoided = [place for place in order if now[0] - failed_at.get(place, -100.0) < 30.0]
    assert order[len(order) - len(avoided) :] == avoided == sorted(avoided, key=lambda place: failed_at[place])
    rotation.worked(order[-1])
    assert rotation.order()[-1] != order[-1] or len(avoided) <= 1
