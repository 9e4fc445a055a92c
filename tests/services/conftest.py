"""`server`: a server without its ports on a fresh database; when a test is over, the invariants are checked."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from styx_server.embedded import PostgresAddress
from tests.support.server import Server, running


@pytest.fixture
async def server(database: PostgresAddress) -> AsyncIterator[Server]:
    """A server that works."""
    async with running(database) as server:
        yield server
