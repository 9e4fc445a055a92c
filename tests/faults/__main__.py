"""Runs faults against a Styx for as long as one likes: `python -m tests.faults --seed 1 --minutes 30`.

Prints what was done and how long Styx took to recover, and the story of each anomaly. Exit code 1 and the histories
stay when there is one.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

from tests.faults.campaign import LANES, Campaign, run
from tests.faults.checker import check
from tests.faults.cluster import Shape
from tests.faults.history import load
from tests.faults.story import tell


def main() -> int:
    """The program."""
    told = _parser().parse_args()
    if told.check:
        histories = load(Path(told.check))
        anomalies = check(histories)
        print("\n\n".join(tell(histories, anomaly) for anomaly in anomalies) or "nothing is wrong")
        return bool(anomalies)
    folder = Path(tempfile.mkdtemp(prefix="styx-faults-"))
    shape = Shape(
        replicas=told.replicas,
        agents=told.agents,
        lease_scale=told.lease_scale,
        small_disks=True,
    )
    campaign = Campaign(
        seed=told.seed,
        seconds=told.minutes * 60,
        shape=shape,
        rate=told.rate,
        pause_seconds=told.pause,
        lanes=tuple(told.lanes.split(",")),
    )
    print(f"seed {told.seed}, {told.minutes:g} minutes, histories in {folder}", flush=True)
    verdict = asyncio.run(run(campaign, folder))
    print(verdict.report)
    if verdict.anomalies:
        print(f"\n{len(verdict.anomalies)} anomalies; look again: python -m tests.faults --check {folder}")
        return 1
    print("nothing is wrong")
    shutil.rmtree(folder)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="Real processes, real faults.")
    add = parser.add_argument
    add("--seed", type=int, default=1, help="the same seed: the same tasks and the same faults in the same order")
    add("--minutes", type=float, default=5.0, help="how long faults are made")
    add("--replicas", type=int, default=3)
    add("--agents", type=int, default=3)
    add("--rate", type=float, default=6.0, help="tasks a second")
    add("--lease-scale", type=float, default=0.2, help="what the usual times of leases are multiplied by")
    add("--pause", type=float, default=4.0, help="about how many seconds all is well between two faults of a lane")
    add("--lanes", default=",".join(LANES), help="what may go wrong; `all`: one fault at a time")
    add("--check", metavar="DIR", help="only look at the histories of an earlier run")
    return parser


if __name__ == "__main__":
    sys.exit(main())
