"""The database goes away under real processes: nothing is lost, nothing runs twice, nobody is declared dead.

One PostgreSQL, one server, one agent. Each test breaks the database in one way while tasks run, asks meanwhile, mends
it, and holds what the tasks recorded themselves against what Styx says. The outage of three minutes runs only when
`STYX_LONG_FAULTS=1` is set; the one of a full disk only for root, who may mount a small one.

`STYX_FAULT_FIGURES=FILE` appends a line of JSON for each fault: how long it took until a new task was through.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from styx.errors import StoreUnavailable
from styx_server.embedded import StartFailed
from tests.support.faulty_postgres import FaultyPostgres, faulty_postgres
from tests.support.server_process import ServerProcess, SmallStyx, small_styx
from tests.support.stack import memory_of
from tests.support.until import soon, soon_true

COUNT = """
echo run >> "$DIR/$STYX_TASK_ID.runs"
i=0
while [ ! -e "$DIR/$GO" ]; do
    echo "line $i" >> "$DIR/$STYX_TASK_ID.out"; echo "line $i"; i=$((i+1)); sleep 0.05
done
exit 5
"""
NOTE = 'echo run >> "$DIR/$STYX_TASK_ID.runs"'
RUNNING = 4
PATIENT = 40
MEMORY_BYTES = 300 << 20

pytestmark = pytest.mark.timeout(400)


@dataclass
class Load:
    """Tasks that run while the database is away, and calls that are made meanwhile.

    Attributes:
        refused: how long callers waited for each word that the database is away, in seconds.
        patient: submissions by a client that tries again.
    """

    styx: SmallStyx
    folder: Path
    name: str
    tasks: list[str] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    retry_after: list[float | None] = field(default_factory=list)
    patient: list[asyncio.Task[str]] = field(default_factory=list)

    async def start(self) -> None:
        env = {"DIR": str(self.folder), "GO": f"{self.name}.go"}
        self.tasks = [await self.styx.patient.submit_task(COUNT, env=env, cpus=0.1) for _ in range(RUNNING)]
        await soon(lambda: all(self.runs(each) == 1 for each in self.tasks), "the tasks run")

        async def recorded() -> bool:
            states = [await self.styx.patient.get_status(each) for each in self.tasks]
            return all(each.state == "RUNNING" for each in states)

        await soon_true(recorded, "their start is recorded")

    async def ask(self, seconds: float) -> None:
        """Asks again and again for so long; a caller hears that the database is away, or gets what it wants."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if len(self.patient) < PATIENT:
                self.patient.append(asyncio.create_task(self.note()))
            began = time.monotonic()
            try:
                await self.styx.hasty.get_task(self.tasks[0])
            except StoreUnavailable as error:
                self.refused.append(time.monotonic() - began)
                self.retry_after.append(error.retry_after_seconds)
            await asyncio.sleep(0.25)

    async def note(self) -> str:
        """Submits a short task until it is stored."""
        return await self.styx.patient.submit_task(NOTE, env={"DIR": str(self.folder)}, cpus=0.1, name=self.name)

    async def through(self) -> float:
        """How long it takes until a new task is through."""
        began = time.monotonic()
        assert (await self.styx.ended(await self.note())).state == "SUCCEEDED"
        return time.monotonic() - began

    async def finish(self) -> None:
        """Everything ends as it did, once, with all that it wrote."""
        assert all(self.retry_after)
        (self.folder / f"{self.name}.go").touch()
        for task_id in self.tasks:
            task = await self.styx.ended(task_id)
            assert (task.state, task.exit_code, len(task.attempts)) == ("FAILED", 5, 1)
            assert self.runs(task_id) == 1
            number = task_id.removeprefix("t")
            assert await self.styx.log_of(task_id) == (self.folder / f"t{number}.out").read_bytes()
        noted = [await each for each in self.patient]
        for task_id in noted:
            assert (await self.styx.ended(task_id)).state == "SUCCEEDED"
        listed = [task.id async for task in self.styx.patient.list_tasks(filter=f'name="{self.name}"')]
        assert set(noted) <= set(listed)
        assert Counter(self.runs(task_id) for task_id in listed) == {1: len(listed)}
        assert len(listed) == len(noted) + 1

    def runs(self, task_id: str) -> int:
        path = self.folder / f"{task_id}.runs"
        return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="styx-away-") as name:
        yield Path(name)


@pytest.fixture(scope="module")
async def database(folder: Path) -> AsyncIterator[FaultyPostgres]:  # type: ignore[override]
    async with faulty_postgres(folder / "database", max_connections="30") as database:
        yield database


@pytest.fixture(scope="module")
async def small(folder: Path, database: FaultyPostgres) -> AsyncIterator[SmallStyx]:
    async with small_styx(folder, database.url) as small:
        yield small


@asynccontextmanager
async def broken_by(
    small: SmallStyx, folder: Path, name: str, fault: AbstractAsyncContextManager[object]
) -> AsyncIterator[Load]:
    """Runs the load through a fault; the block is what happens while it lasts."""
    load = Load(small, folder / f"load_{name}", name)
    load.folder.mkdir()
    await load.start()
    closed = len(list(small.server.events("session_closed")))
    async with fault:
        yield load
    took = await load.through()
    await load.finish()
    assert len(list(small.server.events("session_closed"))) == closed, "the agent's stream stayed open"
    assert list(small.server.events("attempts_lost")) == []
    assert [name for name in BUGS if list(small.server.events(name))] == []
    memory = memory_of(small.pid)
    assert memory < MEMORY_BYTES
    _note_figures(name, took, load, memory)


BUGS = ("loop_failed", "flush_failed", "item_failed", "rpc_failed", "log_corrupt")


@asynccontextmanager
async def stopped(database: FaultyPostgres) -> AsyncIterator[None]:
    await database.down()
    try:
        yield
    finally:
        await database.up()


async def test_an_immediate_shutdown_is_ridden_out(small: SmallStyx, folder: Path, database: FaultyPostgres) -> None:
    async with broken_by(small, folder, "shutdown", stopped(database)) as load:
        assert await not_ready(small) == "1"
        await load.ask(5)
        assert load.refused


async def test_a_database_that_answers_nothing_is_ridden_out(
    small: SmallStyx, folder: Path, database: FaultyPostgres
) -> None:
    async with broken_by(small, folder, "frozen", database.frozen()) as load:
        await load.ask(6)
        assert load.refused
        assert await not_ready(small) == "1"


@pytest.mark.skipif(not os.environ.get("STYX_LONG_FAULTS"), reason="takes half a minute; set STYX_LONG_FAULTS=1")
async def test_a_host_that_goes_without_a_word_is_ridden_out(
    small: SmallStyx, folder: Path, database: FaultyPostgres
) -> None:
    @asynccontextmanager
    async def gone() -> AsyncIterator[None]:
        with database.proxy.unreachable():
            yield

    async with broken_by(small, folder, "host_gone", gone()) as load:
        await load.ask(8)
        assert load.refused


async def test_no_connection_left_is_ridden_out(small: SmallStyx, folder: Path, database: FaultyPostgres) -> None:
    async with broken_by(small, folder, "used_up", database.used_up()) as load:
        await load.ask(4)
        assert load.refused


async def test_a_lock_on_the_tasks_is_ridden_out(small: SmallStyx, folder: Path, database: FaultyPostgres) -> None:
    async with broken_by(small, folder, "locked", database.locked("tasks")) as load:
        await load.ask(8)
        assert load.refused


@pytest.mark.skipif(not os.environ.get("STYX_LONG_FAULTS"), reason="takes a minute; set STYX_LONG_FAULTS=1")
async def test_a_lock_on_the_leases_for_a_minute_ends_nothing(
    small: SmallStyx, folder: Path, database: FaultyPostgres
) -> None:
    async with broken_by(small, folder, "leases_locked", database.locked("agent_leases")) as load:
        await load.ask(60)


async def test_answers_to_commits_that_are_lost_make_nothing_twice(
    small: SmallStyx, folder: Path, database: FaultyPostgres
) -> None:
    @asynccontextmanager
    async def losing() -> AsyncIterator[None]:
        with database.proxy.losing_answers(every=7):
            yield

    async with broken_by(small, folder, "answers_lost", losing()) as load:
        before = database.proxy.lost
        await load.ask(5)
        assert database.proxy.lost > before


@pytest.mark.skipif(not os.environ.get("STYX_LONG_FAULTS"), reason="takes three minutes; set STYX_LONG_FAULTS=1")
async def test_three_minutes_without_a_database_are_ridden_out(
    small: SmallStyx, folder: Path, database: FaultyPostgres
) -> None:
    async with broken_by(small, folder, "three_minutes", stopped(database)) as load:
        await load.ask(180)


@pytest.mark.skipif(not os.environ.get("STYX_LONG_FAULTS"), reason="ten outages; set STYX_LONG_FAULTS=1")
async def test_outage_after_outage_is_ridden_out(small: SmallStyx, folder: Path, database: FaultyPostgres) -> None:
    for number in range(10):
        async with broken_by(small, folder, f"again_{number}", stopped(database)) as load:
            await load.ask(3)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
async def test_a_full_disk_is_ridden_out(folder: Path) -> None:
    async with AsyncExitStack() as stack:
        disk = stack.enter_context(small_disk(folder / "disk", 160))
        small_wal = {"max_wal_size": "32MB", "min_wal_size": "32MB"}
        database = await stack.enter_async_context(faulty_postgres(disk / "database", **small_wal))
        small = await stack.enter_async_context(small_styx(folder / "on_disk", database.url))
        load = await stack.enter_async_context(broken_by(small, folder, "disk_full", full(disk, database)))
        await soon(lambda: any(small.server.events("flush_postponed")), "something could not be stored", seconds=90)
        await load.ask(4)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
async def test_an_embedded_database_on_a_full_disk_says_so(folder: Path) -> None:
    with small_disk(folder / "full", 160) as disk:
        async with faulty_postgres(disk / "database") as database:
            await database.down()
            async with filled(disk):
                with pytest.raises(StartFailed, match="MiB left: make room"):
                    await database.up()
            await database.up()


async def test_a_server_that_is_first_waits_for_its_database(folder: Path, database: FaultyPostgres) -> None:
    await database.down()
    server = ServerProcess(folder / "early", database.url)
    server.start()
    try:
        await soon(lambda: server.log.exists() and any(server.events("database_awaited")), "it waits", seconds=60)
        await database.up()
        await server.ready()
    finally:
        await server.stop()
        await database.up()


async def not_ready(small: SmallStyx) -> str | None:
    """Waits until the probes say that the server is not ready; gives when to come back."""
    seen: list[http.client.HTTPResponse] = []

    def probe() -> bool:
        connection = http.client.HTTPConnection(small.http.removeprefix("http://"), timeout=30)
        connection.request("GET", "/health/ready")
        seen.append(connection.getresponse())
        connection.close()
        return seen[-1].status == 503

    async def ask() -> bool:
        return await asyncio.to_thread(probe)

    await soon_true(ask, "not ready")
    return seen[-1].headers["Retry-After"]


@contextmanager
def small_disk(place: Path, mebibytes: int) -> Iterator[Path]:
    place.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "styx-test", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this root may not mount")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@asynccontextmanager
async def full(disk: Path, database: FaultyPostgres) -> AsyncIterator[None]:
    """No byte is left on the disk; when there is room again, whoever looks after PostgreSQL starts it if it fell."""
    async with filled(disk):
        yield
    await database.up()


@asynccontextmanager
async def filled(disk: Path) -> AsyncIterator[None]:
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        while True:
            try:
                file.write(b"0" * 65536)
                file.flush()
            except OSError:
                break
    try:
        yield
    finally:
        ballast.unlink()


def _note_figures(name: str, took: float, load: Load, memory: int) -> None:
    if path := os.environ.get("STYX_FAULT_FIGURES"):
        figures = {
            "fault": name,
            "recovered_seconds": round(took, 2),
            "refused": len(load.refused),
            "longest_refusal_seconds": round(max(load.refused, default=0.0), 2),
            "submitted_meanwhile": len(load.patient),
            "server_memory_mib": memory >> 20,
        }
        with Path(path).open("a") as file:
            file.write(json.dumps(figures) + "\n")
