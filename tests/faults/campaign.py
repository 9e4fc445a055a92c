"""One run of the whole: a cluster, a load, a nemesis, healing, quiet, and the verdict on what was written down."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from tests.faults.checker import Anomaly, check
from tests.faults.cluster import Cluster, Shape, running_cluster
from tests.faults.history import CLIENT, FAULTS, LEASES, STYX, Histories, Recorder, load
from tests.faults.load import Customer, Demand, Load
from tests.faults.nemesis import Nemesis, happens, plan
from tests.faults.observer import Collector, LeaseWatcher
from tests.faults.recovery import percentile, recovery_seconds
from tests.faults.story import tell

QUIET_SECONDS = 180.0
LANES = ("servers", "database", "agents")
STORIES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """What is run.

    Attributes:
        seconds: how long tasks are submitted and faults begun.
        rate: tasks a second.
        pause_seconds: about how long all is well between two faults of a lane.
        lanes: what may go wrong, each beside the others; `all`: everything, one after the other.
    """

    seed: int
    seconds: float
    shape: Shape
    rate: float = 6.0
    pause_seconds: float = 4.0
    slowness: float = 1.0
    lanes: tuple[str, ...] = LANES

    @property
    def disconnect_seconds(self) -> float:
        """The shortest that the servers take."""
        return 60.0 * self.shape.lease_scale


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of it."""

    histories: Histories
    anomalies: list[Anomaly]

    @property
    def report(self) -> str:
        """For people: figures, then the stories of some anomalies."""
        stories = [tell(self.histories, anomaly) for anomaly in self.anomalies[:STORIES]]
        more = len(self.anomalies) - len(stories)
        return "\n\n".join([_figures(self.histories), *stories] + ([f"and {more} more"] if more else []))


async def run(campaign: Campaign, folder: Path) -> Verdict:
    """Runs a campaign; its histories stay in the folder."""

    async def storm(cluster: Cluster, customer: Customer, record: Recorder) -> None:
        over = asyncio.Event()
        nemesis = Nemesis(cluster, record)
        demand = Demand(
            seed=campaign.seed,
            rate=campaign.rate,
            disconnect_seconds=campaign.disconnect_seconds,
            slowness=campaign.slowness,
        )
        tasks = Load(customer, demand)
        plans = [plan(campaign.seed, lane, cluster, pause_seconds=campaign.pause_seconds) for lane in campaign.lanes]
        async with asyncio.TaskGroup() as group:
            working = group.create_task(tasks.run(over))
            faults = group.create_task(nemesis.run(plans, over))
            await asyncio.sleep(campaign.seconds)
            over.set()
            await faults
            await cluster.heal()
            await _quiet(working, tasks, customer)

    return await stage(campaign.shape, folder, campaign.disconnect_seconds, storm)


Act = Callable[[Cluster, Customer, Recorder], Awaitable[None]]


async def stage(shape: Shape, folder: Path, disconnect_seconds: float, act: Act) -> Verdict:
    """Starts a cluster, lets something happen to it, and judges what was written down.

    Args:
        act: what happens; it is given the cluster, a client, and the journal of faults.
    """
    async with running_cluster(folder, shape) as cluster, cluster.client() as client:
        with ExitStack() as files:
            records = [files.enter_context(closing(Recorder(folder / name))) for name in (CLIENT, FAULTS, LEASES, STYX)]
            customer = Customer(client, records[0], cluster.runs, disconnect_seconds)
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(LeaseWatcher(cluster.postgres, records[2]).run())
                await act(cluster, customer, records[1])
                watching.cancel()
            await Collector(cluster.postgres, client, records[3]).collect()
    histories = load(folder)
    return Verdict(histories=histories, anomalies=check(histories))


async def _quiet(working: asyncio.Task[None], tasks: Load, customer: Customer) -> None:
    """Waits until every task has ended; what has not by then is left to the checker."""
    done = asyncio.Event()
    working.add_done_callback(lambda _: done.set())
    if not await happens(done, QUIET_SECONDS):
        customer.record.write("not_quiet", open=tasks.open, seconds=QUIET_SECONDS)
        working.cancel()


def _figures(histories: Histories) -> str:
    faults = Counter(event["kind"] for event in histories.faults if event["what"] == "begin")
    tasks = {event["id"]: event["state"] for event in histories.styx if event["what"] == "task"}
    outcomes = Counter(event["outcome"] for event in histories.styx if event["what"] == "attempt")
    read = sum(piece[1] for event in histories.styx if event["what"] == "log" for piece in event["pieces"])
    lines = [
        f"tasks {len(tasks)}: {_counts(Counter(tasks.values()))}",
        f"attempts {outcomes.total()}: {_counts(outcomes)}",
        f"runs {len(histories.runs)}, output {read / 1e6:.0f} MB",
        f"faults {faults.total()}, and seconds to recover:",
    ]
    recovered = recovery_seconds(histories)
    for kind, count in sorted(faults.items()):
        times = recovered.get(kind, [])
        told = (
            f"p50 {percentile(times, 0.5):5.1f}  p99 {percentile(times, 0.99):5.1f}  of {len(times)}" if times else ""
        )
        lines.append(f"  {kind:22} {count:4}  {told}")
    return "\n".join(lines)


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counter.most_common())
