"""Ports of this machine: whether one is free, and ports that stay ours while nobody listens there."""

from __future__ import annotations

import socket


def is_free(host: str, port: int) -> bool:
    """Whether a program could listen there now."""
    try:
        _bound(host, port).close()
    except OSError:
        return False
    return True


class HeldPorts:
    """Ports that the kernel gives to nobody, and where a server that is told of them may listen all the same.

    Such a port is bound and never listened on. Linux lets a second socket listen there if both say SO_REUSEADDR, as
    servers do. So a server that fell finds its port again, whatever was started meanwhile.
    """

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []

    def hold(self, host: str, port: int = 0) -> int:
        """Holds a port; 0 is any free one. Returns which.

        Raises:
            OSError: somebody listens there, or the address is not this machine's.
        """
        held = _bound(host, port)
        self._sockets.append(held)
        return int(held.getsockname()[1])

    def release(self) -> None:
        """Gives all of them up."""
        while self._sockets:
            self._sockets.pop().close()


def _bound(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    probe = socket.socket(family, kind, protocol)
    try:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
    except BaseException:
        probe.close()
        raise
    return probe
