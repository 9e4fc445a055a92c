"""The socket at which the link knocks. One link at a time: a newer one that says hello replaces the older.

Moves messages, understands only `hello`. Next: `wire.py` for the language, `warden.py` for the meaning.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable

from styx_agent.supervisor import wire
from styx_agent.supervisor.reactor import READ, WRITE, Reactor
from styx_agent.supervisor.wire import Message

_READ_BYTES = 64 << 10  # a larger buffer would be mapped and unmapped for each read


class Door:
    """Listens, and holds the one connection that counts: the last that said hello.

    Args:
        on_message: called with everything that the link says after its hello.
        welcome: what a link is told first.
        on_link: called when a link has come or gone.
    """

    def __init__(
        self,
        directory: str,
        reactor: Reactor,
        on_message: Callable[[Message], None],
        welcome: Callable[[], Message],
        on_link: Callable[[], None],
    ) -> None:
        self._reactor = reactor
        self._on_message = on_message
        self._welcome = welcome
        self._on_link = on_link
        self._link: _Visitor | None = None
        self._knocking: _Visitor | None = None
        self._path = os.path.join(directory, wire.SOCKET_NAME)
        self._listener = _listen(directory, self._path)
        reactor.watch(self._listener.fileno(), READ, self._accept)

    @property
    def has_link(self) -> bool:
        """Whether somebody is there."""
        return self._link is not None

    def send(self, messages: list[Message]) -> None:
        """Says it to the link, if there is one; a link that comes later is told how things are by then."""
        if self._link is not None:
            self._link.send(messages)

    def greet(self) -> None:
        """Lets in the link that said hello. To be called when all that it will be told is durable."""
        visitor, self._knocking = self._knocking, None
        if visitor is None or not visitor.open:
            return
        if self._link not in (None, visitor):
            self._link.close()
        self._link = visitor
        visitor.send([self._welcome()])
        self._on_link()

    def close(self) -> None:
        """Nobody can knock any more."""
        if self._link is not None:
            self._link.close()
        self._reactor.unwatch(self._listener.fileno())
        self._listener.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    def _accept(self, _events: int) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._listener.accept()
            _Visitor(connection, self._reactor, self._take, self._left)

    def _take(self, visitor: _Visitor, message: Message) -> None:
        if message["op"] == "hello":
            self._knocking = visitor
        elif visitor is self._link:
            self._on_message(message)

    def _left(self, visitor: _Visitor) -> None:
        if visitor is self._link:
            self._link = None
            self._on_link()


class _Visitor:
    """One connection; closes itself when the other side has gone or makes no sense."""

    def __init__(
        self,
        connection: socket.socket,
        reactor: Reactor,
        on_message: Callable[[_Visitor, Message], None],
        on_close: Callable[[_Visitor], None],
    ) -> None:
        connection.setblocking(False)
        self.open = True
        self._connection = connection
        self._reactor = reactor
        self._on_message = on_message
        self._on_close = on_close
        self._reader = wire.FrameReader()
        self._out: list[bytes] = []
        self._out_view = memoryview(b"")
        reactor.watch(connection.fileno(), READ, self._on_ready)

    def send(self, messages: list[Message]) -> None:
        """Queues a frame and sends what can be sent."""
        self._out.append(wire.encode(messages))
        self._flush()

    def close(self) -> None:
        """Hangs up."""
        if self.open:
            self.open = False
            self._reactor.unwatch(self._connection.fileno())
            self._connection.close()
            self._out, self._out_view = [], memoryview(b"")
            self._on_close(self)

    def _on_ready(self, events: int) -> None:
        if events & WRITE:
            self._flush()
        if not self.open or not events & ~WRITE:
            return
        try:
            data = self._connection.recv(_READ_BYTES)
            messages = self._reader.feed(data)
        except BlockingIOError:
            return
        except (OSError, wire.BadFrame):
            self.close()
            return
        for message in messages:
            self._on_message(self, message)
        if not data:
            self.close()

    def _flush(self) -> None:
        if not self.open:
            return
        try:
            while self._out_view or self._out:
                if not self._out_view:
                    self._out_view, self._out = memoryview(b"".join(self._out)), []
                self._out_view = self._out_view[self._connection.send(self._out_view) :]
            self._reactor.watch(self._connection.fileno(), READ, self._on_ready)
        except BlockingIOError:
            self._reactor.watch(self._connection.fileno(), READ | WRITE, self._on_ready)
        except OSError:
            self.close()


def _listen(directory: str, path: str) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    before = os.umask(0o177)
    try:
        with wire.socket_address(directory) as address:
            listener.bind(address)
    finally:
        os.umask(before)
    listener.listen(8)
    return listener
