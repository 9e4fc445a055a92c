"""Every server dies and comes back under a crowd of agents, and nothing that they hold is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from styx_server.embedded import PostgresAddress
from tests.faults.storm import StormPlan, storm


def errors(folder: Path) -> list[dict[str, Any]]:
    """What the servers logged as their own fault."""
    # What is not JSON comes from gRPC's own core, past all logging.
    said = [line for log in folder.glob("*.log") for line in log.read_text().splitlines()]
    lines = [json.loads(line) for line in said if line.startswith("{")]
    return [line for line in lines if line["level"] in ("error", "critical")]


@pytest.mark.parametrize("replicas", [1, 3])
async def test_no_attempt_is_lost_when_every_server_dies_and_comes_back(
    database: PostgresAddress, tmp_path: Path, replicas: int
) -> None:
    seen = await storm(StormPlan(agents=100, replicas=replicas, held=2, down_seconds=0.0), database, tmp_path)
    assert (seen.lost, seen.overlapped, seen.succeeded) == (0, 0, seen.attempts), seen.table()
    assert errors(tmp_path) == []
