"""The real stack as processes: a PostgreSQL, replicas, agents, each of which can be started and ended by its name.

However a block that runs one ends, nothing of it is left: no process, no namespace, no mount.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import asyncpg

import styx
from styx.models import AgentState
from styx.retry import RetrySettings
from tests.faults.database import Postgres
from tests.faults.disks import mounted
from tests.faults.history import RUNS
from tests.faults.network import Loopback, Namespace, Wire, can_isolate, remove_leftovers
from tests.faults.programs import Program, end_all_with, processes_with
from tests.support.faulty_postgres import Proxy
from tests.support.ports import free_port
from tests.support.until import soon, soon_true

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 120.0
DISK_BYTES = 256 << 20
DATABASE_DISK_BYTES = 8 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How large a cluster is, and of what.

    Attributes:
        lease_scale: what the usual times of leases are multiplied by.
        product: the folder that holds Styx's packages.
        small_disks: whether each agent's folder is a file system of its own that can be filled; only as root.
        many_addresses: whether an agent is told of every replica, or of one.
    """

    replicas: int = 1
    agents: int = 2
    cpus: int = 16
    lease_scale: float = 0.2
    product: Path = ROOT
    small_disks: bool = False
    many_addresses: bool = True


class Replica(Program):
    """One server process, and its own road to the database."""

    def __init__(self, number: int, folder: Path, cluster: Cluster, road: Proxy) -> None:
        self.road = road
        self.grpc_port, self.http_port = free_port(), free_port()
        self.data_dir = folder / f"replica{number}"
        argv = [sys.executable, "-m", "styx_server", "--data-dir", str(self.data_dir), "--log-format", "json"]
        argv += ["--grpc-port", str(self.grpc_port), "--http-port", str(self.http_port), "--die-with-parent"]
        argv += ["--lease-scale", str(cluster.shape.lease_scale), "--unsafe-database"]
        env = cluster.env | {"STYX_DATABASE_URL": cluster.postgres.url_by(road), "STYX_ADMIN_TOKEN": cluster.token}
        self.log = folder / f"replica{number}.log"
        super().__init__(f"replica{number}", argv, env, home=cluster.shape.product, log=self.log)

    @property
    def url(self) -> str:
        """Its address on this machine."""
        return f"http://127.0.0.1:{self.http_port}"

    def is_known_as(self, replica_id: UUID) -> bool:
        """Whether that is the name of the process that runs; each has a new one."""
        lines = self.log.read_bytes().splitlines() if self.log.exists() else []
        ready = [line for line in lines if b'"server_ready"' in line]
        return bool(ready) and str(replica_id).encode() in ready[-1]

    @property
    def listens(self) -> bool:
        """Whether it has come so far."""
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", self.http_port)) == 0


class Agent(Program):
    """The link of one agent; its supervisor is found when it is wanted."""

    def __init__(self, number: int, folder: Path, cluster: Cluster, wire: Wire) -> None:
        self.wire = wire
        self.data_dir = folder / f"agent{number}"
        replicas = (
            cluster.replicas if cluster.shape.many_addresses else [cluster.replicas[number % len(cluster.replicas)]]
        )
        urls = ",".join(f"http://{wire.place.host}:{replica.http_port}" for replica in replicas)
        argv = [*wire.place.prefix, sys.executable, "-m", "styx_agent", "--server-url", urls]
        argv += ["--data-dir", str(self.data_dir), "--name", f"agent{number}", "--cpus", str(cluster.shape.cpus)]
        argv += ["--die-with-parent", "--log-format", "json"]
        log = folder / f"agent{number}.log"
        env = cluster.env | {"STYX_JOIN_TOKEN": cluster.join_token}
        super().__init__(f"agent{number}", argv, env, home=cluster.shape.product, log=log)

    @property
    def supervisors(self) -> list[int]:
        """The supervisor's process, if there is one."""
        found = processes_with(f"--data-dir {self.data_dir}")
        return [pid for pid, line in found.items() if "styx_agent.supervisor.main" in line]

    def signal_supervisor(self, number: int) -> None:
        """Sends it a signal."""
        for pid in self.supervisors:
            os.kill(pid, number)


class Cluster:
    """Everything that runs; made by `running_cluster`."""

    def __init__(self, folder: Path, shape: Shape) -> None:
        self.folder = folder
        self.shape = shape
        self.env = {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8"}
        self.token = f"styx_admin_{secrets.token_urlsafe(32)}"
        self.join_token = ""
        self.postgres = Postgres(folder / "database", free_port())
        self.replicas: list[Replica] = []
        self.agents: list[Agent] = []

    @property
    def runs(self) -> Path:
        """Where tasks keep their records."""
        return self.folder / RUNS

    @property
    def fills_disks(self) -> bool:
        """Whether disks are small ones of their own here."""
        return self.shape.small_disks and can_isolate()

    async def leader(self) -> int | None:
        """Which replica leads the scheduler; None: nobody knows now."""
        with suppress(OSError, TimeoutError, asyncpg.PostgresError):
            async with self.postgres.connected(timeout=2, command_timeout=2) as connection:
                leader = await connection.fetchval("select replica_id from leaders where name = 'scheduler'")
            return next((at for at, replica in enumerate(self.replicas) if replica.is_known_as(leader)), None)
        return None

    def client(self, budget_seconds: float = 10.0) -> styx.AsyncClient:
        """A client that knows every replica."""
        urls = ",".join(replica.url for replica in self.replicas)
        return styx.AsyncClient(urls, self.token, retry=RetrySettings(budget_seconds=budget_seconds))

    async def start(self, stack: AsyncExitStack) -> None:
        """Starts everything; returns when every agent is ready for work."""
        self.runs.mkdir(parents=True)
        # Another user may own the database's files.
        self.folder.chmod(0o755)
        if self.fills_disks:
            stack.enter_context(mounted(self.postgres.folder, DATABASE_DISK_BYTES, mode="755"))
        stack.push_async_callback(self.postgres.stop)
        await self.postgres.start()
        for number in range(self.shape.replicas):
            road = self.postgres.road()
            await stack.enter_async_context(road.listening())
            replica = Replica(number, self.folder, self, road)
            self.replicas.append(replica)
            replica.start()
            # The first one makes the schema.
            await self.listens(replica)
        async with self.client() as client:
            token = await client.create_join_token(max_uses=self.shape.agents, ttl=timedelta(hours=1))
            self.join_token = token.token
            await self._start_agents(stack)
            await soon_true(lambda: self._all_ready(client), "every agent is ready", seconds=START_SECONDS)

    async def _start_agents(self, stack: AsyncExitStack) -> None:
        ports = [port for replica in self.replicas for port in (replica.http_port, replica.grpc_port)]
        for number in range(self.shape.agents):
            wire = Wire(Namespace() if can_isolate() else Loopback(number))
            stack.push_async_callback(wire.close)
            await wire.listen(ports)
            agent = Agent(number, self.folder, self, wire)
            if self.fills_disks:
                stack.enter_context(mounted(agent.data_dir, DISK_BYTES))
            self.agents.append(agent)
            agent.start()

    async def _all_ready(self, client: styx.AsyncClient) -> bool:
        dead = [agent for agent in self.agents if not agent.runs]
        assert not dead, dead[0].said()
        found = [agent async for agent in client.agents()]
        return len(found) == self.shape.agents and all(agent.state is AgentState.READY for agent in found)

    async def listens(self, replica: Replica) -> None:
        """Waits until a replica takes calls."""

        def up() -> bool:
            assert replica.runs, replica.said()
            return replica.listens

        await soon(up, f"{replica.name} listens", seconds=START_SECONDS)

    async def heal(self) -> None:
        """Puts everything right, whatever was wrong; what was killed is started."""
        self.postgres.signal(signal.SIGCONT)
        await self.postgres.answers()
        for agent in self.agents:
            agent.wire.heal()
            agent.signal(signal.SIGCONT)
            agent.signal_supervisor(signal.SIGCONT)
            agent.start()
        for replica in self.replicas:
            replica.signal(signal.SIGCONT)
            replica.start()
            await soon(lambda replica=replica: replica.listens, f"{replica.name} listens", seconds=START_SECONDS)


@asynccontextmanager
async def running_cluster(folder: Path, shape: Shape) -> AsyncIterator[Cluster]:
    """A cluster for the length of a block."""
    if can_isolate():
        remove_leftovers()
    async with AsyncExitStack() as stack:
        cluster = Cluster(folder, shape)
        stack.push_async_callback(_end_processes, cluster)
        await cluster.start(stack)
        # Processes go first, then what they stand on.
        stack.push_async_callback(_end_processes, cluster)
        yield cluster


async def _end_processes(cluster: Cluster) -> None:
    for program in (*cluster.agents, *cluster.replicas):
        program.kill()
    # What is left: supervisors, guardians, tasks. The database's command line names the folder too, and is not theirs.
    for name in ("agent", "replica", RUNS):
        await end_all_with(f"{cluster.folder}/{name}")
