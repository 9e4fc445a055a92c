"""The whole way through Amazon and Google Cloud: from a task that nobody can run to its output, and until the machine
that was rented for it is gone. The clouds are doubles; the server, what machines are told, and the agents are real.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

import styx
from styx.machine_models import Instance, InstanceState
from styx.models import OutcomeKind
from styx.retry import RetrySettings
from styx_server.core.machines.instance import CloudMachine, MachineState
from styx_server.embedded import PostgresAddress
from tests.machines.clouds import (
    DEBIAN,
    BootedMachine,
    Cloud,
    Datacenter,
    Hardware,
    amazon,
    datacenter,
    folder_machine,
    google,
)
from tests.support import programs
from tests.support.cloud_machine import cloud_machine
from tests.support.ports import free_port
from tests.support.server_process import TOKEN, ServerProcess
from tests.support.until import soon, soon_true

PATIENCE_SECONDS = 90.0
CLOUDS: Mapping[str, Callable[[], AbstractContextManager[Cloud]]] = {
    "aws": amazon,
    "gcp": google,
    "gcp, with a startup script": partial(google, DEBIAN),
}
KILLED_AT = ("server.rent.answered", "server.release.answered")
"""The provider has done it, and nothing of that is stored. `tests/acceptance/test_rented.py` is killed everywhere."""


@pytest.fixture(params=["aws", "gcp"])
def cloud(request: pytest.FixtureRequest) -> Iterator[Cloud]:
    """Each of them."""
    with CLOUDS[request.param]() as opened:
        yield opened


@dataclass(frozen=True, kw_only=True)
class World:
    """A cloud, where its machines run, and a server that rents there."""

    cloud: Cloud
    center: Datacenter
    server: ServerProcess
    address: str
    client: styx.AsyncClient

    async def cli(self, *words: str) -> str:
        """The answer to a user's command."""
        known = {"STYX_SERVER_URL": self.address, "STYX_TOKEN": TOKEN}
        done = await programs.styx(self.server.folder, *words, env=known)
        assert done.code == 0, done.talk
        return done.text

    async def instances(self) -> list[Instance]:
        """All that were ever wished for, the first one first."""
        return [each async for each in self.client.instances(include_ended=True)][::-1]

    async def task_says(self, task_id: str, condition: Callable[[styx.Task], bool], what: str) -> styx.Task:
        """The task, once something is true of it."""

        async def true() -> bool:
            return condition(await self.client.get_task(task_id))

        await self.soon(true, what)
        return await self.client.get_task(task_id)

    async def soon(self, condition: Callable[[], Awaitable[bool]], what: str) -> None:
        """Waits until it is true; else the server's last words are part of the failure."""
        try:
            await soon_true(condition, what, seconds=PATIENCE_SECONDS)
        except AssertionError as error:
            error.add_note(self.server.tail())
            raise

    async def output(self, task_id: str) -> bytes:
        """All that a task writes."""
        return b"".join([chunk.data async for chunk in self.client.logs(task_id, follow=True)])

    async def no_machine_is_left(self) -> list[CloudMachine]:
        """Waits until every machine was given back, looks that there never were two for one key; the ledger."""

        async def all_ended() -> bool:
            return not [each async for each in self.client.instances()]

        await self.soon(all_ended, "every machine has ended")
        ledger = list(self.cloud.ledger())
        assert {machine.state for machine in ledger} == {MachineState.ENDED}
        assert set(Counter(machine.key for machine in ledger).values()) == {1}
        terminated = [each.key for each in await self.instances() if each.state is InstanceState.TERMINATED]
        assert sorted(terminated) == sorted(machine.key for machine in ledger)
        assert self.center.off == set(self.center.on)
        return ledger


@asynccontextmanager
async def a_world(
    cloud: Cloud,
    folder: Path,
    bundles: Path,
    database: PostgresAddress,
    *,
    host: str = "127.0.0.1",
    hardware: Callable[[], AbstractContextManager[Hardware]] = folder_machine,
    kills: Collection[str] = (),
) -> AsyncIterator[World]:
    """A server that rents from a cloud; machines leave when they are idle for a second.

    Args:
        cloud: which.
        folder: for the server's files.
        bundles: what machines install.
        database: an empty one.
        host: where machines find the server.
        hardware: on which machines run.
        kills: failpoints, at each of which the server is killed once; it is started again.
    """
    port = free_port()
    address = f"http://{host}:{port}"
    marks = folder / "marks"
    (folder / "server").mkdir()
    marks.mkdir()
    shutil.copytree(bundles, folder / "server" / "bundles")
    (folder / "server.toml").write_text(
        f'providers = ["{cloud.provider}"]\nhttp_addresses = ["{address}"]\n{cloud.table}'
    )
    words = ("--config", str(folder / "server.toml"), "--host", host, "--insecure", "--lease-scale", "0.1")
    ports = ("--http-port", str(port), "--grpc-port", str(free_port()))
    server = ServerProcess(folder / "server", database.url, *words, *ports)
    server.environment = cloud.environment
    if kills:
        server.environment = {
            **cloud.environment,
            "STYX_ENABLE_FAILPOINTS": "1",
            "STYX_FAILPOINTS": ";".join(f"{name}:kill" for name in kills),
            "STYX_FAILPOINTS_ONCE_DIR": str(marks),
        }
    server.start()
    patient = RetrySettings(budget_seconds=600, longest_wait_seconds=0.5)
    try:
        await server.ready()
        async with (
            styx.AsyncClient(address, TOKEN, retry=patient) as client,
            datacenter(cloud, hardware) as center,
            reviving(server),
        ):
            world = World(cloud=cloud, center=center, server=server, address=address, client=client)
            await world.cli("pool", "update", "default", "--idle", "1s")
            await world.soon(partial(_prices_are_known, client), "the cloud's own prices are known")
            yield world
            assert {path.name for path in marks.iterdir()} == set(kills)
    finally:
        await server.stop()


async def _prices_are_known(client: styx.AsyncClient) -> bool:
    offers = [offer async for offer in client.offers()]
    return bool(offers) and not any(offer.estimate for offer in offers)


@asynccontextmanager
async def reviving(server: ServerProcess) -> AsyncIterator[None]:
    """Starts a server again whenever it was killed."""

    async def again_and_again() -> None:
        while True:
            await soon(lambda: server.ended, "the server is killed", seconds=float("inf"))
            assert server.process is not None
            assert server.process.returncode == -signal.SIGKILL, server.tail()
            server.start()

    async with asyncio.TaskGroup() as group:
        watch = group.create_task(again_and_again())
        try:
            yield
        finally:
            watch.cancel()


@pytest.mark.parametrize("name", ["aws", "gcp"])
async def test_from_a_task_to_its_first_line_and_to_the_end_of_its_machine(
    name: str, tmp_path: Path, packed: Path, database: PostgresAddress, capsys: pytest.CaptureFixture[str]
) -> None:
    with CLOUDS[name]() as cloud:
        async with a_world(cloud, tmp_path, packed, database) as world:
            await _the_whole_way(world, f"{name}, without cloud-init", capsys)


@pytest.mark.parametrize("name", ["aws", "gcp"])
async def test_the_same_with_the_real_cloud_init(
    name: str, tmp_path: Path, fitting: Path, database: PostgresAddress, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = {"aws": "ec2", "gcp": "gce"}[name]
    with cloud_machine(tmp_path / "machine", kind) as machine, CLOUDS[name]() as cloud:

        def hardware() -> AbstractContextManager[Hardware]:
            return nullcontext(BootedMachine(machine))

        async with a_world(cloud, tmp_path, fitting, database, host=machine.host, hardware=hardware) as world:
            await _the_whole_way(world, f"{name}, with cloud-init", capsys)


async def _the_whole_way(world: World, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    asked = time.monotonic()
    said = await world.cli("run", "--gpus", "T4:1", "--spot", "--", "sh", "-c", "echo from $STYX_AGENT_ID")
    line = time.monotonic()
    assert said == "from a1\n"
    (on,) = world.center.on.values()
    with capsys.disabled():
        told = f"switch-on to the first line {line - on:.1f} s, task to the first line {line - asked:.1f} s"
        sys.stdout.write(f"\n{what}: {told}\n")
    (machine,) = await world.no_machine_is_left()
    assert machine.spot
    (row,) = json.loads(await world.cli("instance", "list", "--all", "-o", "json"))
    assert (row["state"], row["reason"], row["cloudId"]) == ("TERMINATED", "idle", machine.cloud_id)


async def test_what_a_zone_has_not_or_takes_back_is_rented_elsewhere(
    cloud: Cloud, tmp_path: Path, packed: Path, database: PostgresAddress
) -> None:
    async with a_world(cloud, tmp_path, packed, database) as world:
        first, second = cloud.zones
        cloud.run_out(first)
        world.center.dark = True
        command = "echo attempt $STYX_ATTEMPT; [ $STYX_ATTEMPT = 2 ] || exec sleep 600"
        task_id = await world.client.submit_task(command, cpus=2, memory="4GiB", spot=True)
        task = await world.task_says(task_id, lambda task: task.message.startswith("i2, "), "another is on the way")
        assert task.reason == "provisioning"
        refused, _ = await world.instances()
        assert (refused.state, refused.reason) == (InstanceState.FAILED, "capacity")
        assert f"tried before: {_what(refused)} ({refused.message})" in task.message

        world.center.dark = False
        await world.task_says(task_id, lambda task: task.state == styx.TaskState.RUNNING, "the task runs")
        (machine,) = cloud.ledger()
        assert (machine.place.zone, machine.spot) == (second, True)
        await world.center.take_back(machine.cloud_id)
        await world.client.wait(task_id)
        task = await world.client.get_task(task_id)
        kinds = [each.outcome and each.outcome.kind for each in task.attempts]
        assert kinds == [OutcomeKind.PREEMPTED, OutcomeKind.EXITED]
        assert (await world.output(task_id)).endswith(b"attempt 2\n")
        _, last = await world.no_machine_is_left()
        # Another type: that of before is not to be had there.
        assert last.place.zone == first
        assert [each.reason for each in await world.instances()] == ["capacity", "preempted", "idle"]


def _what(instance: Instance) -> str:
    offer = instance.offer
    assert offer is not None
    return f"{offer.machine_type} in {offer.provider}/{offer.region}/{offer.zone}"


@pytest.mark.parametrize("cloud", ["aws", "gcp, with a startup script"], indirect=True)
async def test_while_the_cloud_is_away_work_waits_and_nothing_is_forgotten(
    cloud: Cloud, tmp_path: Path, packed: Path, database: PostgresAddress
) -> None:
    async with a_world(cloud, tmp_path, packed, database) as world:
        cloud.be_away(True)
        task_id = await world.client.submit_task("echo back", cpus=2)
        await soon(lambda: any(world.server.events("machine_refused")), "a call has failed")
        cloud.be_away(False)
        assert await world.output(task_id) == b"back\n"
        cloud.be_away(True)
        await soon(lambda: any(world.server.events("machine_not_released")), "a machine could not be given back")
        assert [machine.state for machine in cloud.ledger()] == [MachineState.RUNNING]
        cloud.be_away(False)
        await world.no_machine_is_left()


async def test_a_server_that_is_killed_around_each_call_rents_nothing_twice_and_leaves_nothing_behind(
    cloud: Cloud, tmp_path: Path, packed: Path, database: PostgresAddress
) -> None:
    async with a_world(cloud, tmp_path, packed, database, kills=KILLED_AT) as world:
        task_id = await world.client.submit_task("echo once", cpus=2, spot=True)
        assert await world.output(task_id) == b"once\n"
        assert len((await world.client.get_task(task_id)).attempts) == 1
        assert len(await world.no_machine_is_left()) == 1
