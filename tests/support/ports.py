"""Ports for programs that come back to the same place after they were killed."""

from __future__ import annotations

import secrets
import socket
from contextlib import suppress

_FIRST, _COUNT = 18_000, 14_000
"""Below those that the kernel gives to connections."""


def free_port() -> int:
    """A port that nobody has, and that no connection will be given while its program is dead."""
    while True:
        port = _FIRST + secrets.randbelow(_COUNT)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
