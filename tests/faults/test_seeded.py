"""A short run of everything for each of some seeds: what goes wrong is drawn, what must hold is not.

`STYX_FAULT_SEED` chooses the first; `make faults SEED=... MINUTES=...` runs one of them for as long as one likes.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from tests.faults.campaign import Campaign, run
from tests.faults.cluster import Shape

FIRST = int(os.environ.get("STYX_FAULT_SEED", "11"))
SEEDS = range(FIRST, FIRST + 3)
SECONDS = 15.0


@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", SEEDS)
async def test_every_promise_holds_whatever_the_seed_brings(seed: int) -> None:
    shape = Shape(replicas=3, agents=3, small_disks=True)
    with tempfile.TemporaryDirectory(prefix="styx-seed-") as folder:
        verdict = await run(
            Campaign(seed=seed, seconds=SECONDS, shape=shape, rate=3.0, pause_seconds=3.0, slowness=0.4), Path(folder)
        )
    assert not verdict.anomalies, verdict.report
