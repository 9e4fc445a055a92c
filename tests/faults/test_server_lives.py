"""A server is killed again and again while a task writes: the task never notices, and its log is equal to the source.

It is killed 5 times, with `STYX_LONG_FAULTS=1` 20 times; `STYX_FAULT_SEED` chooses the moments.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from random import Random

import pytest

from styx.models import LogStream
from tests.faults.cluster import Shape, running_cluster
from tests.faults.noise import NOISE
from tests.support.until import soon

KILLS = 20 if os.environ.get("STYX_LONG_FAULTS") == "1" else 5
SEED = int(os.environ.get("STYX_FAULT_SEED", "1"))

pytestmark = pytest.mark.timeout(900)


async def test_a_task_outlives_its_server_again_and_again(tmp_path: Path) -> None:
    dice, record, go = Random(SEED), tmp_path / "record", tmp_path / "go"
    async with running_cluster(tmp_path / "cluster", Shape(agents=1, lease_scale=1.0)) as cluster:
        (replica,) = cluster.replicas
        async with cluster.client(budget_seconds=60.0) as client:
            task_id = await client.submit_task([sys.executable, "-c", NOISE, str(SEED), str(record), str(go)])
            await soon(record.exists, "the task writes")
            for _ in range(KILLS):
                # A moment of the server's life: while it starts, while the agent says Hello, while output comes in.
                more = record.stat().st_size + dice.randint(1, 1_500_000)
                await soon(lambda more=more: record.stat().st_size >= more, "the task writes on")  # type: ignore[misc]
                assert replica.runs, replica.said()
                replica.kill()
                replica.start()
            go.touch()
            assert (await client.wait(task_id, timeout=240)).exit_code == 7
            found = [chunk.data async for chunk in client.logs(task_id, stream=LogStream.STDOUT, follow=True)]
            assert b"".join(found) == record.read_bytes()
            (attempt,) = (await client.get_task(task_id)).attempts
            assert attempt.number == 1
