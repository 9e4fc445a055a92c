"""Every server dies and comes back under a crowd of agents, and nothing that they hold is lost."""

from __future__ import annotations

from pathlib import Path

from styx_server.embedded import PostgresAddress
from tests.faults.storm import StormPlan, storm


async def test_no_attempt_is_lost_when_every_server_dies_and_comes_back(
    database: PostgresAddress, tmp_path: Path
) -> None:
    seen = await storm(StormPlan(agents=100, held=2, down_seconds=0.0), database, tmp_path)
    assert (seen.lost, seen.overlapped, seen.succeeded) == (0, 0, seen.attempts), seen.table()
