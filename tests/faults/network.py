"""The network between one agent and the servers, and what can go wrong with it.

Every agent dials an address of its own; a wire there carries bytes to the servers, as fast or as slowly as it is told.
As root the agent is in a network namespace, and a cut drops packets: connections hang, and TCP backs off as it does in
a real network. Without root a cut makes the wire hold the bytes.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Literal, Protocol

from tests.support.until import soon

Direction = Literal["up", "down"]
"""From the agent to the servers, and back."""

BOTH: tuple[Direction, ...] = ("up", "down")

_CHUNK_BYTES = 1 << 16
_NAME = "styxf"
_numbers = count()


def can_isolate() -> bool:
    """Whether this user may make network namespaces here."""
    return os.geteuid() == 0 and all(shutil.which(tool) for tool in ("ip", "nsenter"))


class Place(Protocol):
    """Where an agent is."""

    host: str
    """The address of the servers as the agent sees it."""
    prefix: tuple[str, ...]
    """Put before a command, it runs the command there."""

    def cut(self, directions: Sequence[Direction]) -> bool:
        """Lets no packet through; False: this place cannot, the wire must."""
        ...

    def heal(self) -> None:
        """Lets everything through again."""
        ...

    def close(self) -> None:
        """Takes the place away."""
        ...


class Loopback:
    """An address of this machine's own network, for those who are not root."""

    prefix: tuple[str, ...] = ()

    def __init__(self, number: int) -> None:
        self.host = f"127.93.{number + 1}.1"

    def cut(self, directions: Sequence[Direction]) -> bool:
        """Packets to oneself cannot be dropped without privileges."""
        del directions
        return False

    def heal(self) -> None:
        """Nothing was cut."""

    def close(self) -> None:
        """There is nothing to take away."""


class Namespace:
    """A network namespace with one cable to this one."""

    def __init__(self) -> None:
        number = next(_numbers)
        self._name = f"{_NAME}-{os.getpid()}-{number}"
        # 16,384 nets of four addresses; two runs at a time are far apart unless their process numbers are multiples.
        net = (os.getpid() * 16 + number) % 16384 * 4
        self.host, self._guest = (f"10.201.{(net + own) >> 8}.{(net + own) & 255}" for own in (1, 2))
        self.prefix = ("nsenter", f"--net=/run/netns/{self._name}")
        outside, inside = f"sf{os.getpid()}o{number}", f"sf{os.getpid()}i{number}"
        _ip("netns", "add", self._name)
        _ip("link", "add", outside, "type", "veth", "peer", "name", inside, "netns", self._name)
        _ip("addr", "add", f"{self.host}/30", "dev", outside)
        _ip("link", "set", outside, "up")
        _ip("-n", self._name, "addr", "add", f"{self._guest}/30", "dev", inside)
        _ip("-n", self._name, "link", "set", inside, "up")
        _ip("-n", self._name, "link", "set", "lo", "up")

    def cut(self, directions: Sequence[Direction]) -> bool:
        """Packets in these directions vanish: a route of one address wins over that of its net."""
        if "up" in directions:
            _ip("-n", self._name, "route", "replace", "blackhole", f"{self.host}/32")
        if "down" in directions:
            _ip("route", "replace", "blackhole", f"{self._guest}/32")
        return True

    def heal(self) -> None:
        """Removes those routes."""
        with suppress(subprocess.CalledProcessError):
            _ip("-n", self._name, "route", "del", "blackhole", f"{self.host}/32")
        with suppress(subprocess.CalledProcessError):
            _ip("route", "del", "blackhole", f"{self._guest}/32")

    def close(self) -> None:
        """The cable goes with the namespace."""
        self.heal()
        _ip("netns", "del", self._name)


def remove_leftovers() -> None:
    """Removes the namespaces of runs whose process is gone."""
    for path in Path("/run/netns").glob(f"{_NAME}-*"):
        if not Path(f"/proc/{path.name.split('-')[1]}").exists():
            with suppress(subprocess.CalledProcessError):
                _ip("netns", "del", path.name)


class Wire:
    """Carries the connections of one agent to the servers, port by port."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.delay_seconds = 0.0
        self._open = {"up": asyncio.Event(), "down": asyncio.Event()}
        self._servers: list[asyncio.Server] = []
        self._carried: set[asyncio.Transport] = set()
        self.heal()

    async def listen(self, ports: Sequence[int]) -> None:
        """Begins to carry: what comes to a port here goes to the same port of this machine."""
        for port in ports:
            self._servers.append(await asyncio.start_server(self._carrier(port), self.place.host, port))

    def cut(self, directions: Sequence[Direction] = BOTH) -> None:
        """Nothing gets through in these directions, and nobody is told."""
        if not self.place.cut(directions):
            for direction in directions:
                self.hold(direction)

    def hold(self, direction: Direction) -> None:
        """Keeps the bytes of one direction until they are released: packets that are late, not lost."""
        self._open[direction].clear()

    def release(self, direction: Direction) -> None:
        """Lets go what was held."""
        self._open[direction].set()

    def heal(self) -> None:
        """Everything gets through again, at once."""
        self.delay_seconds = 0.0
        self.place.heal()
        for direction in BOTH:
            self.release(direction)

    async def close(self) -> None:
        """Stops carrying."""
        self.heal()
        for server in self._servers:
            server.close()
        for transport in list(self._carried):
            transport.abort()
        await soon(lambda: not self._carried, "the wire is quiet")
        self.place.close()

    def _carrier(self, port: int) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._carried.add(writer.transport)
            try:
                await self._connect(port, reader, writer)
            finally:
                writer.transport.abort()
                self._carried.discard(writer.transport)

        return carry

    async def _connect(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                await _first_of(self._pump("up", reader, far_writer), self._pump("down", far_reader, writer))
            finally:
                far_writer.transport.abort()

    async def _pump(self, direction: Direction, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(_CHUNK_BYTES):
                if self.delay_seconds:
                    await asyncio.sleep(self.delay_seconds)
                await self._open[direction].wait()
                writer.write(data)
                await writer.drain()
            writer.write_eof()


async def _first_of(*pumps: Coroutine[None, None, None]) -> None:
    """Both ends of a connection go together."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(pump) for pump in pumps]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
