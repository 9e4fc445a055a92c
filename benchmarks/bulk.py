"""Submits many equal tasks for next to nothing: one request is made once, and sent again and again with a new id.

A client that makes each spec anew takes longer for it than the server does for the rest, on the server's own cores.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import grpc.aio

from benchmarks.stack import Stack
from styx.locate import read_token
from styx.v1 import styx_service_pb2 as pb
from styx.v1 import tasks_pb2

_METHOD = "/styx.v1.StyxService/SubmitTasks"


class Bulk:
    """A connection that submits tasks of one kind.

    Args:
        namespace: where they go; empty: `default`.
    """

    def __init__(self, channel: grpc.aio.Channel, token: str, namespace: str = "") -> None:
        self._call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_METHOD)
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._namespace = namespace
        self._made: dict[int, bytes] = {}

    async def submit(self, count: int, *, batch: int = 10_000, at_once: int = 2) -> None:
        """Submits `count` tasks of `/bin/true`, in requests of `batch`, so many of them under way at once."""
        sizes = iter([min(batch, count - begin) for begin in range(0, count, batch)])

        async def sender() -> None:
            for size in sizes:
                await self._call(self._request(size), metadata=self._metadata)

        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(sender())

    def _request(self, size: int) -> bytes:
        if size not in self._made:
            self._made[size] = equal_tasks(size, self._namespace)
        return with_id(self._made[size], str(uuid4()))


def equal_tasks(count: int, namespace: str) -> bytes:
    """A request for so many tasks of `/bin/true`, as it goes over the wire, without an id."""
    specs = [tasks_pb2.TaskSpec(argv=["/bin/true"])] * count
    return pb.SubmitTasksRequest(specs=specs, namespace=namespace).SerializeToString()


def with_id(request: bytes, request_id: str) -> bytes:
    """The same request with an id: messages on the wire are put together by putting their bytes together."""
    return request + pb.SubmitTasksRequest(request_id=request_id).SerializeToString()


@asynccontextmanager
async def bulk(stack: Stack, namespace: str = "") -> AsyncIterator[Bulk]:
    """A connection for the length of a block."""
    async with grpc.aio.insecure_channel(stack.grpc_address()) as channel:
        yield Bulk(channel, read_token(stack.data_dir), namespace)
