"""Floor of dispatch: a unary call that commits one row and then puts one message on a stream. No more than gRPC needs.

`python -m benchmarks.floors.dispatch DATABASE_URL`
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import grpc
import grpc.aio

from benchmarks.floors.answering import answer_all
from benchmarks.floors.rows import INSERT, make_tables

SERVICE = "benchmarks.Floor"


class Floor(grpc.GenericRpcHandler):
    """`Submit`, bytes to bytes, and `Session`, the stream of everything that was submitted."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._orders: asyncio.Queue[bytes] = asyncio.Queue()
        self._methods: dict[str, Any] = {
            f"/{SERVICE}/Submit": grpc.unary_unary_rpc_method_handler(self._submit),
            f"/{SERVICE}/Session": grpc.unary_stream_rpc_method_handler(self._session),
        }

    def service(self, handler_call_details: Any) -> Any:
        """Finds a method."""
        return self._methods.get(handler_call_details.method)

    async def _submit(self, request: bytes, _context: Any) -> bytes:
        await self._connection.execute(INSERT, 1)
        self._orders.put_nowait(request)
        return request

    async def _session(self, _request: bytes, _context: Any) -> AsyncIterator[bytes]:
        while True:
            yield await self._orders.get()


async def main(url: str) -> None:
    """Serves until stdin ends."""
    connection = await asyncpg.connect(url)
    await make_tables(connection)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((Floor(connection),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await answer_all(_nothing, port=port)
    await server.stop(1.0)


async def _nothing(_question: dict[str, Any]) -> dict[str, Any]:
    return {}


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
