"""Ports for programs that come back to the same place after they were killed."""

from __future__ import annotations

import secrets
import socket
from contextlib import suppress

_FIRST, _COUNT = 18_000, 14_000
"""Below those that the kernel gives to connections."""


def free_port() -> int:
    """A port that nobody has or was promised, and that no connection will be given while its program is dead."""
    while True:
        port = _FIRST + secrets.randbelow(_COUNT)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            _promise(port)
            return port


def _promise(port: int) -> None:
    """Keeps a port from other callers, of other runs too, for as long as this process lives.

    Between the choice and the moment when a program listens there may be seconds. A name in the abstract space of unix
    sockets is in the same network namespace as the port, and goes with the process however that ends.

    Raises:
        OSError: it was promised to somebody else.
    """
    promise = socket.socket(socket.AF_UNIX)
    try:
        promise.bind(f"\0styx-test-port-{port}")
    except OSError:
        promise.close()
        raise
    promise.detach()
