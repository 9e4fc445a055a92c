"""Every kind of fault: how it is done, and how it is undone. To add one, write it and put it into the table.

None of these may do what Styx does not promise to survive: a supervisor is stopped for less than the margin of a lease,
and tasks themselves are never touched.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

import asyncpg

from tests.faults.cluster import Agent, Cluster, Program
from tests.faults.database import MAX_CONNECTIONS
from tests.faults.disks import filled
from tests.faults.network import BOTH, Direction

FLAP_SECONDS = 0.7
DELAY_SECONDS = 0.3
LOSE_EACH = 5

_Inflict = Callable[[Cluster, int], AbstractAsyncContextManager[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One kind of fault.

    Attributes:
        lane: `servers`, `database` or `agents`.
        seconds: from how long to how long it lasts when times of leases are a fifth of the usual.
        possible: whether it can be done here.
    """

    inflict: _Inflict
    lane: str
    seconds: tuple[float, float]
    weight: float = 1.0
    possible: Callable[[Cluster], bool] = lambda _: True


def _killed(of: Callable[[Cluster, int], Sequence[Program]]) -> _Inflict:
    """SIGKILL; started again when the time is over."""

    async def kill(program: Program) -> None:
        program.kill()

    return _away(of, kill)


def _ended(of: Callable[[Cluster, int], Sequence[Program]]) -> _Inflict:
    """SIGTERM; started again when the time is over."""
    return _away(of, lambda program: program.terminate())


def _away(of: Callable[[Cluster, int], Sequence[Program]], end: Callable[[Program], Awaitable[None]]) -> _Inflict:
    @asynccontextmanager
    async def inflict(cluster: Cluster, target: int) -> AsyncIterator[None]:
        for program in of(cluster, target):
            await end(program)
        try:
            yield
        finally:
            for program in of(cluster, target):
                program.start()

    return inflict


def _stopped(of: Callable[[Cluster, int], Sequence[Program]]) -> _Inflict:
    """SIGSTOP, then SIGCONT: a machine that stands still and does not know it."""

    @asynccontextmanager
    async def inflict(cluster: Cluster, target: int) -> AsyncIterator[None]:
        for program in of(cluster, target):
            program.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for program in of(cluster, target):
                program.signal(signal.SIGCONT)

    return inflict


def _replica(cluster: Cluster, target: int) -> Sequence[Program]:
    return [cluster.replicas[target % len(cluster.replicas)]]


def _of_the_leader(inflict: _Inflict) -> _Inflict:
    """The same, to the replica that leads the scheduler at that moment."""

    @asynccontextmanager
    async def led(cluster: Cluster, target: int) -> AsyncIterator[None]:
        leader = await cluster.leader()
        async with inflict(cluster, target if leader is None else leader):
            yield

    return led


@asynccontextmanager
async def _database_out_of_reach(cluster: Cluster, target: int) -> AsyncIterator[None]:
    """For one replica: what it sends is lost, and no connection that it had will ever work again."""
    with cluster.replicas[target % len(cluster.replicas)].road.unreachable():
        yield


@asynccontextmanager
async def _answers_lost(cluster: Cluster, target: int) -> AsyncIterator[None]:
    """Statements of one replica are carried out, and it does not learn of it."""
    with cluster.replicas[target % len(cluster.replicas)].road.losing_answers(every=LOSE_EACH):
        yield


def _every_replica(cluster: Cluster, target: int) -> Sequence[Program]:
    del target
    return cluster.replicas


def _link(cluster: Cluster, target: int) -> Sequence[Program]:
    return [_agent(cluster, target)]


def _agent(cluster: Cluster, target: int) -> Agent:
    return cluster.agents[target % len(cluster.agents)]


@asynccontextmanager
async def _supervisor_killed(cluster: Cluster, target: int) -> AsyncIterator[None]:
    """The guardian has to kill its tasks, and the link starts another."""
    _agent(cluster, target).signal_supervisor(signal.SIGKILL)
    yield


@asynccontextmanager
async def _supervisor_stopped(cluster: Cluster, target: int) -> AsyncIterator[None]:
    agent = _agent(cluster, target)
    agent.signal_supervisor(signal.SIGSTOP)
    try:
        yield
    finally:
        agent.signal_supervisor(signal.SIGCONT)


def _cut(*directions: Direction) -> _Inflict:
    """Nothing gets through, one way or both."""

    @asynccontextmanager
    async def inflict(cluster: Cluster, target: int) -> AsyncIterator[None]:
        wire = _agent(cluster, target).wire
        wire.cut(directions)
        try:
            yield
        finally:
            wire.heal()

    return inflict


@asynccontextmanager
async def _flapping(cluster: Cluster, target: int) -> AsyncIterator[None]:
    wire = _agent(cluster, target).wire

    async def flap() -> None:
        while True:
            wire.cut(BOTH)
            await asyncio.sleep(FLAP_SECONDS)
            wire.heal()
            await asyncio.sleep(FLAP_SECONDS)

    async with asyncio.TaskGroup() as group:
        flapping = group.create_task(flap())
        try:
            yield
        finally:
            flapping.cancel()
            wire.heal()


@asynccontextmanager
async def _slow(cluster: Cluster, target: int) -> AsyncIterator[None]:
    """Each packet of up to 64 KiB takes its time, one after the other."""
    wire = _agent(cluster, target).wire
    wire.delay_seconds = DELAY_SECONDS
    try:
        yield
    finally:
        wire.heal()


@asynccontextmanager
async def _disk_full(cluster: Cluster, target: int) -> AsyncIterator[None]:
    with filled(_agent(cluster, target).data_dir):
        yield


@asynccontextmanager
async def _database_disk_full(cluster: Cluster, target: int) -> AsyncIterator[None]:
    """It may fall; when there is room again, whoever looks after it starts it."""
    del target
    with filled(cluster.postgres.folder):
        yield
    await cluster.postgres.answers()


@asynccontextmanager
async def _database_ended(cluster: Cluster, target: int) -> AsyncIterator[None]:
    """As `pg_ctl stop -m immediate`."""
    del target
    await cluster.postgres.end_at_once()
    try:
        yield
    finally:
        await cluster.postgres.start()


@asynccontextmanager
async def _backend_killed(cluster: Cluster, target: int) -> AsyncIterator[None]:
    """PostgreSQL ends every other connection too, and recovers."""
    with suppress(OSError, asyncpg.PostgresError):
        backends = await cluster.postgres.backends()
        os.kill(backends[target % len(backends)], signal.SIGKILL)
    yield


@asynccontextmanager
async def _connections_used_up(cluster: Cluster, target: int) -> AsyncIterator[None]:
    """Connections that servers have stay; new ones are refused."""
    del target
    async with AsyncExitStack() as stack:
        with suppress(OSError, asyncpg.PostgresError):
            for _ in range(MAX_CONNECTIONS):
                await stack.enter_async_context(cluster.postgres.connected(timeout=5))
        yield


@asynccontextmanager
async def _tables_locked(cluster: Cluster, target: int) -> AsyncIterator[None]:
    """Somebody's migration, or a backup, that holds what everybody wants."""
    table = ("tasks", "agent_leases", "log_streams", "live_attempts")[target % 4]
    try:
        async with cluster.postgres.connected(timeout=5) as connection:
            await connection.execute("begin")
            await connection.execute(f"lock table {table} in access exclusive mode", timeout=10)
            yield
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        # The other lane ended the database first.
        return


def _can_fill(cluster: Cluster) -> bool:
    return cluster.fills_disks


def _are_several(cluster: Cluster) -> bool:
    return len(cluster.replicas) > 1


KINDS: dict[str, Kind] = {
    "replica killed": Kind(inflict=_killed(_replica), lane="servers", seconds=(0.1, 3), weight=3),
    "replica ended": Kind(inflict=_ended(_replica), lane="servers", seconds=(0.1, 2)),
    "replica stopped": Kind(inflict=_stopped(_replica), lane="servers", seconds=(2, 20)),
    "all replicas killed": Kind(inflict=_killed(_every_replica), lane="servers", seconds=(1, 18)),
    "leader killed": Kind(
        inflict=_of_the_leader(_killed(_replica)), lane="servers", seconds=(0.1, 6), weight=2, possible=_are_several
    ),
    "leader stopped": Kind(
        inflict=_of_the_leader(_stopped(_replica)), lane="servers", seconds=(2, 20), possible=_are_several
    ),
    "database out of reach": Kind(inflict=_database_out_of_reach, lane="servers", seconds=(2, 15)),
    "answers lost": Kind(inflict=_answers_lost, lane="servers", seconds=(1, 8)),
    "database ended": Kind(inflict=_database_ended, lane="database", seconds=(0.1, 8)),
    "backend killed": Kind(inflict=_backend_killed, lane="database", seconds=(0.1, 1)),
    "connections used up": Kind(inflict=_connections_used_up, lane="database", seconds=(2, 8)),
    "tables locked": Kind(inflict=_tables_locked, lane="database", seconds=(1, 10)),
    "database disk full": Kind(inflict=_database_disk_full, lane="database", seconds=(1, 8), possible=_can_fill),
    "link killed": Kind(inflict=_killed(_link), lane="agents", seconds=(0.1, 4), weight=3),
    "link ended": Kind(inflict=_ended(_link), lane="agents", seconds=(0.1, 2)),
    "link stopped": Kind(inflict=_stopped(_link), lane="agents", seconds=(1, 25)),
    "supervisor killed": Kind(inflict=_supervisor_killed, lane="agents", seconds=(0.1, 1)),
    "supervisor stopped": Kind(inflict=_supervisor_stopped, lane="agents", seconds=(0.2, 1.5)),
    "cut both ways": Kind(inflict=_cut("up", "down"), lane="agents", seconds=(2, 25), weight=2),
    "cut towards servers": Kind(inflict=_cut("up"), lane="agents", seconds=(2, 25)),
    "cut towards agent": Kind(inflict=_cut("down"), lane="agents", seconds=(2, 25)),
    "flapping": Kind(inflict=_flapping, lane="agents", seconds=(3, 15)),
    "slow line": Kind(inflict=_slow, lane="agents", seconds=(3, 15)),
    "disk full": Kind(inflict=_disk_full, lane="agents", seconds=(2, 10), possible=_can_fill),
}
