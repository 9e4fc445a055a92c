"""A hundred readers who take almost nothing: output goes on being taken in, memory has a bound, nobody loses a byte."""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest

from styx.v1 import styx_service_pb2 as wire
from styx.v1 import styx_service_pb2_grpc, tasks_pb2
from tests.support.faulty_postgres import faulty_postgres
from tests.support.server_process import TOKEN, SmallStyx, small_styx
from tests.support.stack import memory_of

READERS = 100
BYTES = 24 << 20
MEMORY_BYTES = 256 << 20
# Random bytes, so that nothing gets smaller on the way; reproducible, so that the digest is known.
WRITE = f"""python3 -c "
import hashlib, sys
block = b'styx'
for _ in range({BYTES} // (1 << 16)):
    out = b''
    while len(out) < 1 << 16:
        block = hashlib.sha512(block).digest(); out += block
    sys.stdout.buffer.write(out)
" """

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
async def small() -> AsyncIterator[SmallStyx]:
    with tempfile.TemporaryDirectory(prefix="styx-slow-") as name:
        async with (
            faulty_postgres(Path(name) / "database") as database,
            small_styx(Path(name), database.url) as small,
        ):
            yield small


class SlowReader:
    """Takes one message, and then no more; it remembers where that one ended."""

    def __init__(self, channel: grpc.aio.Channel, task_id: str) -> None:
        self._stub = styx_service_pb2_grpc.StyxServiceStub(channel)
        self._task_id = task_id
        self.digest = hashlib.sha256()
        self.offset = 0
        self.call = self._ask(0)

    async def take_one(self) -> None:
        self._take(await self.call.read())

    async def leave_and_read_the_rest(self) -> bytes:
        self.call.cancel()
        async for message in self._ask(self.offset):
            self._take(message)
        return self.digest.digest()

    def _ask(self, offset: int) -> grpc.aio.UnaryStreamCall:
        request = wire.StreamLogsRequest(
            task_id=self._task_id, attempt=1, stream=tasks_pb2.STDOUT, follow=True, stdout_offset=offset
        )
        return self._stub.StreamLogs(request, metadata=(("authorization", f"Bearer {TOKEN}"),))

    def _take(self, message: wire.StreamLogsResponse) -> None:
        assert message.offset == self.offset or not message.data
        self.digest.update(message.data)
        self.offset += len(message.data)


async def test_a_hundred_slow_readers_slow_nobody_and_lose_nothing(small: SmallStyx) -> None:
    first = await small.patient.submit_task(WRITE, cpus=1)
    assert (await small.ended(first)).state == "SUCCEEDED"
    wanted = hashlib.sha256(await small.log_of(first)).digest()
    async with AsyncExitStack() as stack:
        readers = [await _reader(stack, small, first) for _ in range(READERS)]
        await asyncio.gather(*(reader.take_one() for reader in readers))
        second = await small.patient.submit_task(WRITE, cpus=1)
        assert (await small.ended(second)).state == "SUCCEEDED"
        assert hashlib.sha256(await small.log_of(second)).digest() == wanted
        assert memory_of(small.pid) < MEMORY_BYTES, f"{memory_of(small.pid) >> 20} MiB"
        for reader in readers[:3]:
            assert 0 < reader.offset < BYTES
            assert await reader.leave_and_read_the_rest() == wanted


async def _reader(stack: AsyncExitStack, small: SmallStyx, task_id: str) -> SlowReader:
    # A channel of its own, with a window that does not grow: what is not read must wait at the server, not here.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0)]
    channel = await stack.enter_async_context(grpc.aio.insecure_channel(small.grpc, options=options))
    return SlowReader(channel, task_id)
