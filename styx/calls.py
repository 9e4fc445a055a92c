"""Calls to the service: one try is a line, a deadline and a translation of errors; then retries on top.

Knows lines, errors and retries; the meaning of a message is its callers' business (`tasks.py`, `follow.py`,
`machines.py`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import grpc.aio
from google.protobuf.message import Message

from styx.channel import Connection, Line
from styx.errors import Retryable, ServerStopping, ServerUnreachable, StoreUnavailable, StyxError
from styx.retry import Backoff, RetrySettings
from styx.wire_errors import from_rpc_error


class Caller:
    """Calls methods by name on whichever server answers.

    The first contact fails fast: a server that was never there is an error at once. Once a server has answered, calls
    ride out its absence for the budget of the settings.
    """

    def __init__(self, connection: Connection, settings: RetrySettings) -> None:
        self._connection = connection
        self._settings = settings

    async def unary(self, method: str, request: Message) -> Any:
        """Sends one request until it is answered; the same bytes each time, so its request id stays.

        Raises:
            StyxError: what the server says, or that nobody answers.
        """
        backoff = Backoff(self._settings)
        while True:
            try:
                return await self._unary_once(method, request)
            except Retryable as failure:
                await self._wait_after(failure, backoff)

    async def stream(
        self, method: str, make_request: Callable[[], Message], *, endless: bool = False
    ) -> AsyncGenerator[Any, None]:
        """Yields what the server streams; after a failure it asks again with a fresh `make_request()`.

        Args:
            method: name of the rpc.
            make_request: makes the request that goes on where the last message left off.
            endless: a stream that ends was cut off by a server that stops, so it is asked for again.

        Raises:
            StyxError: what the server says, or that nobody answers.
        """
        backoff = Backoff(self._settings)
        while True:
            try:
                async with aclosing(self._stream_once(method, make_request(), backoff)) as messages:
                    async for message in messages:
                        backoff.progressed()
                        yield message
                if not endless:
                    return
                raise ServerStopping("the server ended the stream")
            except Retryable as failure:
                await self._wait_after(failure, backoff)

    async def close(self) -> None:
        """Closes the connection."""
        await self._connection.close()

    async def _wait_after(self, failure: Retryable, backoff: Backoff) -> None:
        if not self._connection.has_answered:
            raise failure
        await backoff.after(failure)

    async def _unary_once(self, method: str, request: Message) -> Any:
        line = await self._connection.line()
        async with line.in_use():
            try:
                return await getattr(line.stub, method)(
                    request, metadata=self._connection.metadata, timeout=self._settings.call_timeout_seconds
                )
            except grpc.aio.AioRpcError as error:
                raise await self._translate(error, line) from None

    async def _stream_once(self, method: str, request: Message, backoff: Backoff) -> AsyncGenerator[Any, None]:
        line = await self._connection.line()
        async with line.in_use():
            call = getattr(line.stub, method)(request, metadata=self._connection.metadata)
            backoff.opened()
            try:
                async for message in call:
                    yield message
            except grpc.aio.AioRpcError as error:
                raise await self._translate(error, line) from None
            finally:
                call.cancel()

    async def _translate(self, error: grpc.aio.AioRpcError, line: Line) -> StyxError:
        failure = from_rpc_error(error, line.address.url)
        away = isinstance(failure, ServerUnreachable | ServerStopping)
        # What one replica cannot reach, another one may.
        if away or (isinstance(failure, StoreUnavailable) and self._connection.has_alternatives):
            await self._connection.leave(line)
        return failure
