"""The socket at which the link knocks. One link at a time: a newer one replaces the older.

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

_READ_BYTES = 1 << 20


class Door:
    """Listens, and holds the one connection.

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
        self._link: socket.socket | None = None
        self._reader = wire.FrameReader()
        self._greeted = False
        self._knocked = False
        self._out: list[bytes] = []
        self._out_view = memoryview(b"")
        self._path = os.path.join(directory, wire.SOCKET_NAME)
        self._listener = _listen(directory, self._path)
        reactor.watch(self._listener.fileno(), READ, self._accept)

    @property
    def has_link(self) -> bool:
        """Whether somebody is there."""
        return self._link is not None

    def send(self, messages: list[Message]) -> None:
        """Says it to the link, if there is one; a link that comes later is told how things are by then."""
        if self._link is not None and self._greeted:
            self._out.append(wire.encode(messages))
            self._flush(0)

    def greet(self) -> None:
        """Tells a link that has come how things are. To be called when all that is durable."""
        if self._knocked:
            self._knocked, self._greeted = False, True
            self.send([self._welcome()])

    def close(self) -> None:
        """Nobody can knock any more."""
        self._drop()
        self._reactor.unwatch(self._listener.fileno())
        self._listener.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    def _accept(self, _events: int) -> None:
        try:
            link, _ = self._listener.accept()
        except OSError:
            return
        self._drop()
        link.setblocking(False)
        self._link, self._reader, self._greeted, self._knocked = link, wire.FrameReader(), False, False
        self._reactor.watch(link.fileno(), READ, self._on_ready)
        self._on_link()

    def _on_ready(self, events: int) -> None:
        if events & WRITE:
            self._flush(events)
        if self._link is None or not events & ~WRITE:
            return
        try:
            data = self._link.recv(_READ_BYTES)
            messages = self._reader.feed(data)
        except BlockingIOError:
            return
        except (OSError, wire.BadFrame):
            self._drop()
            return
        if not data:
            self._drop()
            return
        for message in messages:
            self._take(message)

    def _take(self, message: Message) -> None:
        if message["op"] == "hello":
            self._knocked = True
        elif self._greeted:
            self._on_message(message)

    def _flush(self, _events: int) -> None:
        if self._link is None:
            return
        try:
            while self._out_view or self._out:
                if not self._out_view:
                    self._out_view, self._out = memoryview(b"".join(self._out)), []
                self._out_view = self._out_view[self._link.send(self._out_view) :]
            self._reactor.watch(self._link.fileno(), READ, self._on_ready)
        except BlockingIOError:
            self._reactor.watch(self._link.fileno(), READ | WRITE, self._on_ready)
        except OSError:
            self._drop()

    def _drop(self) -> None:
        if self._link is not None:
            self._reactor.unwatch(self._link.fileno())
            self._link.close()
            self._link, self._out, self._out_view = None, [], memoryview(b"")
            self._on_link()


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
