"""All servers die at once and come back, and every agent wants to be first.

`python -m tests.faults.storm --agents 2000 --replicas 1` starts a PostgreSQL and the servers, connects light agents,
has each hold attempts, kills every server with SIGKILL, starts them again after a while, and prints how long it took
until all sessions were live again, whether an attempt was lost on the way, and what it cost. Exits with 1 when it took
longer than a minute or anything was lost.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import asyncpg

import styx
from styx.retry import RetrySettings
from styx_agent import clock
from styx_server.core.states import TaskState
from styx_server.embedded import EmbeddedPostgres, PostgresAddress
from tests.faults.storm_servers import PROFILE, StormServer, cpu_seconds, cpu_seconds_below, parent_of, peak_bytes
from tests.support.light_agents import Crew, CrewPlan, raise_file_limit

PROMISED_SECONDS = 60.0
_BATCH = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class StormPlan:
    """What is broken, and how much hangs on it.

    Attributes:
        held: attempts on each agent.
        down_seconds: between the death of the servers and their start.
        profile: whether each server writes where its time went, from its second start on.
    """

    agents: int = 2000
    replicas: int = 1
    held: int = 1
    down_seconds: float = 20.0
    patience_seconds: float = 300.0
    profile: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Storm:
    """What was seen. Spans are in seconds; those of the return count from the moment the last server answered.

    Attributes:
        join_seconds: until all had joined and had an open session, at the first start.
        start_seconds: from starting the servers again until the last one answered.
        half_seconds: until half of the sessions were open.
        open_seconds: until all were.
        leased_seconds: until each had a beat stored.
        lost: attempts that were ended, or whose task got another one, before they were released.
        succeeded: tasks that ended well, in their first attempt.
        rss_before: most memory of a server before the storm, in bytes.
        rss_after: the same after it.
        servers_cpu: what the servers took from their return until all was over.
    """

    join_seconds: float
    start_seconds: float
    half_seconds: float
    open_seconds: float
    leased_seconds: float
    attempts: int
    lost: int
    overlapped: int
    succeeded: int
    dials: int
    rss_before: int
    rss_after: int
    servers_cpu: float
    postgres_cpu: float
    agents_cpu: float

    def table(self) -> str:
        """For people."""
        rows = []
        for name, value in dataclasses.asdict(self).items():
            text = f"{value / 2**20:,.0f} MiB" if name.startswith("rss") else f"{value:,.1f} s"
            rows.append(
                (name.replace("_", " "), f"{value:,}" if isinstance(value, int) and "rss" not in name else text)
            )
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {text:>10}" for name, text in rows)

    @property
    def is_good(self) -> bool:
        """Whether the promise was kept."""
        nothing_lost = self.lost == self.overlapped == 0 and self.succeeded == self.attempts
        return nothing_lost and self.leased_seconds <= PROMISED_SECONDS


class Scene:
    """Servers, agents, a client and a look into the database."""

    def __init__(self, plan: StormPlan, address: PostgresAddress, folder: Path) -> None:
        self.plan = plan
        self.token = f"styx_admin_{secrets.token_hex(32)}"
        environment = {"STYX_DATABASE_URL": address.url, "STYX_ADMIN_TOKEN": self.token}
        # Tests bring a database that forgets when its machine dies; only servers die here.
        environment["STYX_UNSAFE_DATABASE"] = "true"
        self.servers = [StormServer(folder / f"server{number}", environment) for number in range(plan.replicas)]
        self.urls = tuple(server.url for server in self.servers)
        self._address = address

    async def start_servers(self, *, profile: bool = False) -> None:
        """Starts all; returns when all answer."""
        for server in self.servers:
            server.start(profile=profile)
        for server in self.servers:
            await server.answers()

    def client(self) -> styx.AsyncClient:
        """A patient client of all servers."""
        return styx.AsyncClient(",".join(self.urls), self.token, retry=RetrySettings(budget_seconds=300.0))

    @asynccontextmanager
    async def crew(self) -> AsyncIterator[Crew]:
        """The agents, joined and connected."""
        async with self.client() as client:
            made = await client.create_join_token(max_uses=self.plan.agents, ttl=timedelta(hours=1))
        crew = Crew(
            CrewPlan(urls=self.urls, agents=self.plan.agents, join_token=made.token, cpus=float(self.plan.held))
        )
        async with asyncio.TaskGroup() as group:
            running = group.create_task(crew.run())
            try:
                await self.until(lambda: crew.leased == self.plan.agents, "all agents have a lease")
                yield crew
            finally:
                running.cancel()

    async def give_work(self, crew: Crew) -> int:
        """Fills every agent; returns how many attempts are held when the servers know of each."""
        wanted = self.plan.agents * self.plan.held
        async with self.client() as client:
            for begin in range(0, wanted, _BATCH):
                await client.submit_tasks([["hold"]] * min(_BATCH, wanted - begin))
        await self.until(lambda: crew.held == wanted and crew.is_settled, "every agent holds its attempts")
        return wanted

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Waits for something among the agents."""
        deadline = clock.boottime_micros() + round(self.plan.patience_seconds * 1e6)
        while not condition():
            if clock.boottime_micros() > deadline:
                raise TimeoutError(f"not within {self.plan.patience_seconds:g} s: {what}")
            await clock.sleep(0.05)

    async def first_attempts(self, state: TaskState) -> int:
        """Tasks in a state that have had one attempt."""
        async with self._look() as look:
            found: int = await look.fetchval("select count(*) from tasks where state = $1 and attempt = 1", int(state))
            return found

    async def postmaster(self) -> int:
        """The process that all of PostgreSQL's are children of."""
        async with self._look() as look:
            return parent_of(await look.fetchval("select pg_backend_pid()"))

    @asynccontextmanager
    async def _look(self) -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(**self._address.arguments())
        try:
            yield connection
        finally:
            await connection.close()


async def storm(plan: StormPlan, address: PostgresAddress, folder: Path) -> Storm:
    """One storm, from an empty database to the end of all tasks. The servers' logs are in the folder."""
    scene = Scene(plan, address, folder)
    try:
        await scene.start_servers()
        began = clock.boottime_micros()
        async with scene.crew() as crew:
            join_seconds = _since(began)
            wanted = await scene.give_work(crew)
            rss_before = max(peak_bytes(server.pid) for server in scene.servers)
            dials = sum(agent.dials for agent in crew.agents)
            for server in scene.servers:
                server.kill()
            await scene.until(lambda: crew.connected == 0, "every agent has noticed")
            await clock.sleep(plan.down_seconds)
            postmaster = await scene.postmaster()
            postgres_cpu, agents_cpu = cpu_seconds_below(postmaster), time.process_time()
            started = clock.boottime_micros()
            await scene.start_servers(profile=plan.profile)
            back = clock.boottime_micros()
            await scene.until(lambda: crew.leased == plan.agents, "every agent has a lease again")
            servers_cpu = sum(cpu_seconds(server.pid) for server in scene.servers)
            postgres_cpu, agents_cpu = cpu_seconds_below(postmaster) - postgres_cpu, time.process_time() - agents_cpu
            dials = sum(agent.dials for agent in crew.agents) - dials
            kept = await scene.first_attempts(TaskState.RUNNING)
            unwanted = crew.sheet.unwanted(wanted)
            crew.release()
            await scene.until(lambda: crew.held == 0, "every end is stored")
            opened = sorted(agent.opened_micros - back for agent in crew.agents)
            return Storm(
                join_seconds=join_seconds,
                start_seconds=(back - started) / 1e6,
                half_seconds=opened[len(opened) // 2] / 1e6,
                open_seconds=opened[-1] / 1e6,
                leased_seconds=max(agent.leased_micros - back for agent in crew.agents) / 1e6,
                attempts=wanted,
                lost=max(wanted - kept, unwanted),
                overlapped=crew.sheet.counts["overlapped"],
                succeeded=await scene.first_attempts(TaskState.SUCCEEDED),
                dials=dials,
                rss_before=rss_before,
                rss_after=max(peak_bytes(server.pid) for server in scene.servers),
                servers_cpu=servers_cpu,
                postgres_cpu=postgres_cpu,
                agents_cpu=agents_cpu,
            )
    finally:
        for server in scene.servers:
            server.stop()


def _since(micros: int) -> float:
    return (clock.boottime_micros() - micros) / 1e6


async def _storm_on_own_database(plan: StormPlan, folder: Path) -> Storm:
    # As many as PostgreSQL allows when nobody says otherwise: each server takes two dozen.
    postgres = EmbeddedPostgres(folder / "database", extra_settings={"max_connections": "100"})
    await postgres.start()
    try:
        return await storm(plan, postgres.dsn, folder)
    finally:
        await postgres.stop()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.storm", description=__doc__)
    parser.add_argument("--agents", type=int, default=2000, metavar="N")
    parser.add_argument("--replicas", type=int, default=1, metavar="N")
    parser.add_argument("--held", type=int, default=1, metavar="N", help="attempts on each agent (default 1)")
    parser.add_argument("--down", type=float, default=20.0, metavar="SECONDS", help="how long no server runs")
    parser.add_argument("--folder", type=Path, help="an empty folder to keep logs and profiles in; else one is made")
    parser.add_argument("--profile", action="store_true", help=f"write SERVER/{PROFILE} for each server")
    told = parser.parse_args()
    raise_file_limit()
    plan = StormPlan(
        agents=told.agents, replicas=told.replicas, held=told.held, down_seconds=told.down, profile=told.profile
    )
    with tempfile.TemporaryDirectory(prefix="styx-storm-") as folder:
        seen = asyncio.run(_storm_on_own_database(plan, told.folder or Path(folder)))
    print(seen.table())
    raise SystemExit(0 if seen.is_good else 1)


if __name__ == "__main__":
    main()
