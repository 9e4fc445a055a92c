"""The connection to one of the servers: finds its gRPC port, dials it, and moves to another one when told to.

Knows addresses and gRPC channels, nothing of tasks. What it may not do: retry a call (`retry.py` does) or name a method
of the service (`client.py` does). All of it belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio

from styx.errors import Final, ServerUnreachable
from styx.locate import Address, Target, read_address
from styx.rotation import Rotation
from styx.v1.styx_service_pb2_grpc import StyxServiceStub

_MESSAGE_BYTES = 16 * 1024 * 1024

# A peer that is gone or stopped without a word is noticed within 20 s.
# The service configuration is never asked from DNS.
_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", _MESSAGE_BYTES),
    ("grpc.enable_retries", 0),
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


class Line:
    """One channel to one server, and how many calls are on it; it is closed only when the last of them is over."""

    def __init__(self, address: Address, channel: grpc.aio.Channel) -> None:
        self.address = address
        self.stub: Any = StyxServiceStub(channel)
        self._channel = channel
        self._users = 0
        self._retired = False

    @contextlib.asynccontextmanager
    async def in_use(self) -> AsyncIterator[None]:
        """Holds the channel open for the length of a call: closing it would cancel other people's calls."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            if self._retired and not self._users:
                await self.close()

    async def retire(self) -> None:
        """Closes the channel now, or after the calls that are still on it."""
        self._retired = True
        if not self._users:
            await self.close()

    async def close(self) -> None:
        """Closes the channel; calls on it are cancelled."""
        await self._channel.close(None)


class Connection:
    """One line at a time to one of the target's servers, chosen by chance; dialled at the first use."""

    def __init__(self, target: Target, *, connect_timeout_seconds: float) -> None:
        self._token = target.token
        self._rotation = Rotation(target.addresses)
        self._timeout = connect_timeout_seconds
        self._line: Line | None = None
        self._dialling = asyncio.Lock()
        self._closed = False
        self.has_answered = False

    @property
    def has_alternatives(self) -> bool:
        """Whether there is more than one server to talk to."""
        return len(self._rotation.places) > 1

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call carries."""
        return (("authorization", f"Bearer {self._token}"),) if self._token else ()

    async def line(self) -> Line:
        """A line to a server that answers; tries each address once, those that failed lately last.

        Raises:
            ServerUnreachable: none of them answers; tells what is wrong with each.
            InvalidAddress: one of them cannot be read.
        """
        async with self._dialling:
            if self._closed:
                raise Final("this client is closed", reason="CLIENT_CLOSED", remedy="make a new one")
            if self._line is None:
                self._line = await self._dial_any()
                self.has_answered = True
            return self._line

    async def leave(self, line: Line) -> None:
        """Stops using `line`: the next call dials again, and prefers another address for a while."""
        if self._line is line:
            self._line = None
            self._rotation.failed(line.address)
            await line.retire()

    async def close(self) -> None:
        """Closes the line; calls that are under way on it are cancelled."""
        self._closed = True
        line, self._line = self._line, None
        if line is not None:
            await line.close()

    async def _dial_any(self) -> Line:
        addresses = self._rotation.order()
        for address in addresses:
            # Before any is dialled: a mistake in one of them must not wait for the day it is needed.
            read_address(address.url)
        failures: list[ServerUnreachable] = []
        for address in addresses:
            try:
                channel = await self._dial(address)
            except ServerUnreachable as failure:
                self._rotation.failed(address)
                failures.append(failure)
            else:
                self._rotation.worked(address)
                return Line(address, channel)
        raise _none_of_them(failures)

    async def _dial(self, address: Address) -> grpc.aio.Channel:
        if address.grpc_address is None:
            return await self._dial_at(address)
        try:
            return await self._dial_at(address)
        except ServerUnreachable:
            # What a file says may be of a server that died since; the one at this address knows better.
            return await self._dial_at(replace(address, grpc_address=None))

    async def _dial_at(self, address: Address) -> grpc.aio.Channel:
        grpc_address, tls = await self._endpoint(address)
        channel = _open(grpc_address, tls=tls)
        try:
            async with asyncio.timeout(self._timeout):
                await _until_ready(channel, address.url, grpc_address)
        except BaseException as error:
            await channel.close(None)
            if isinstance(error, TimeoutError):
                why = f"no connection to {grpc_address} within {self._timeout:g} s"
                raise ServerUnreachable(address.url, why) from None
            raise
        return channel

    async def _endpoint(self, address: Address) -> tuple[str, bool]:
        """The gRPC address, and whether it speaks TLS."""
        if address.grpc_address:
            return address.grpc_address, address.tls
        # An HTTP client is only loaded by who needs one.
        from styx.discovery import discover

        try:
            async with asyncio.timeout(self._timeout + 1.0):
                found = await asyncio.to_thread(discover, address.url, timeout_seconds=self._timeout)
                return found.grpc_address, found.tls
        except TimeoutError:
            raise ServerUnreachable(address.url, f"no answer within {self._timeout:g} s") from None


def _none_of_them(failures: list[ServerUnreachable]) -> ServerUnreachable:
    if len(failures) == 1:
        return failures[0]
    urls = ", ".join(failure.url for failure in failures)
    return ServerUnreachable(urls, "; ".join(f"{failure.url}: {failure.why}" for failure in failures))


def _open(address: str, *, tls: bool) -> grpc.aio.Channel:
    # A loopback address behind somebody's HTTP proxy variable would be dialled through that proxy.
    options = (*_OPTIONS, ("grpc.enable_http_proxy", 0)) if _is_local(address) else _OPTIONS
    if tls:
        return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(), options=options)
    return grpc.aio.insecure_channel(address, options=options)


def _is_local(address: str) -> bool:
    return address.startswith(("127.", "localhost:", "[::1]:"))


async def _until_ready(channel: grpc.aio.Channel, url: str, grpc_address: str) -> None:
    """Waits for the connection. Gives up at the first refusal: gRPC itself would go on trying."""
    state = channel.get_state(try_to_connect=True)
    while state is not grpc.ChannelConnectivity.READY:
        if state in (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN):
            raise ServerUnreachable(url, f"nothing accepts connections at {grpc_address}")
        await channel.wait_for_state_change(state)
        state = channel.get_state(try_to_connect=True)
