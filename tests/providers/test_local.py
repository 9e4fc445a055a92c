"""Machines of this computer: they outlive who rented them, end by themselves, and leave nothing behind."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from styx_server.core.machines.instance import CloudMachine, MachineState
from styx_server.core.machines.refusal import RefusalKind
from styx_server.providers.local import NAME, REGION, LocalProvider, sizes
from styx_server.providers.ports import ProviderError
from styx_server.providers.processes import kin
from styx_server.providers.processes.folder import MachineFolder
from styx_server.providers.processes.launch import base_environment
from styx_server.providers.processes.room import KEEP_SECONDS, MachineRoom
from tests.providers.local_market import LocalMarket, open_market
from tests.providers.standing_in import ALONE, StandIns
from tests.support.supervisor_driver import processes
from tests.support.until import soon, soon_true

ROOT = Path(__file__).resolve().parents[2]
SERVER = """
import asyncio, sys
from pathlib import Path
from tests.providers.local_market import LocalMarket

async def main():
    market = LocalMarket(Path(sys.argv[1]))
    sys.stdin.readline()
    for key in sys.argv[2:]:
        machine = await market.provider.rent(market.order(key))
        print(machine.cloud_id, flush=True)
    sys.stdin.readline()

asyncio.run(main())
"""


@pytest.fixture
async def market(tmp_path: Path) -> AsyncIterator[LocalMarket]:
    async with open_market(tmp_path) as opened:
        yield opened


@pytest.fixture
def innocent() -> Iterator[subprocess.Popen[bytes]]:
    """Somebody else's process."""
    with subprocess.Popen(["sleep", "3600"]) as process:
        yield process
        process.kill()


class Servers:
    """Processes that rent, each for itself."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.processes: list[subprocess.Popen[str]] = []

    def add(self, *keys: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(self._folder), *keys],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def go(self) -> None:
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate()


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    group = Servers(tmp_path)
    yield group
    group.close()


def folder_of(market: LocalMarket, machine: CloudMachine) -> MachineFolder:
    folder = MachineRoom(market.root, name=NAME).folder_of(machine.cloud_id)
    assert folder is not None
    return folder


def alive(folder: MachineFolder) -> list[int]:
    """The live processes of a machine, its keeper too."""
    return processes(str(folder.path))


async def state_of(market: LocalMarket, machine: CloudMachine) -> tuple[MachineState, str]:
    [found] = [each for each in await market.ledger() if each.cloud_id == machine.cloud_id]
    return found.state, found.reason


async def ends(market: LocalMarket, machine: CloudMachine, reason: str) -> None:
    """Waits until a machine has ended, and looks whether anything is left of it."""

    async def has_ended() -> bool:
        return (await state_of(market, machine))[0] is MachineState.ENDED

    await soon_true(has_ended, "the machine ends")
    folder = folder_of(market, machine)
    await soon(lambda: not alive(folder), "no process is left")
    assert await state_of(market, machine) == (MachineState.ENDED, reason)
    assert sorted(path.name for path in folder.path.iterdir() if path.name not in {"release", "preempt"}) == [
        "card.json",
        "keeper.lock",
        "machine.log",
        "status.json",
    ]


async def rented(market: LocalMarket, key: str = "styx-a1") -> CloudMachine:
    machine = await market.provider.rent(market.order(key))
    await market.settle()
    return machine


# Who rented it may die.


async def test_a_machine_outlives_the_server_that_rented_it(market: LocalMarket, servers: Servers) -> None:
    server = servers.add("styx-a1")
    servers.go()
    assert server.stdout is not None
    cloud_id = server.stdout.readline().strip()
    server.kill()
    server.wait()
    await market.settle()
    [machine] = await market.ledger()
    assert (machine.cloud_id, machine.state) == (cloud_id, MachineState.RUNNING)
    assert alive(folder_of(market, machine))
    await market.provider.release(machine.place, machine.cloud_id)
    await ends(market, machine, "released")


async def test_two_servers_at_once_make_one_machine_for_one_key(market: LocalMarket, servers: Servers) -> None:
    for _ in range(2):
        servers.add("styx-a1", "styx-a2", "styx-a3")
    servers.go()
    said = [[process.stdout.readline().strip() for _ in range(3)] for process in servers.processes if process.stdout]
    assert said == [["local-styx-a1", "local-styx-a2", "local-styx-a3"]] * 2
    await market.settle()
    assert [machine.state for machine in await market.ledger()] == [MachineState.RUNNING] * 3
    assert len(processes("styx_agent-stand-in --data-dir " + str(market.root))) == 3


async def test_a_folder_that_was_never_finished_is_made_anew(market: LocalMarket) -> None:
    draft = market.root / "machines" / ".new-styx-a1"
    draft.mkdir(parents=True)
    (draft / "card.json").write_text("{")
    machine = await rented(market)
    assert (await state_of(market, machine))[0] is MachineState.RUNNING
    assert not draft.exists()


async def test_a_machine_whose_keeper_never_started_has_ended(market: LocalMarket) -> None:
    def falls(folder: MachineFolder, lock: int, *words: str) -> None:
        """As if the server was killed just then."""

    provider = LocalProvider(market.root, start=falls)
    machine = await provider.rent(market.order("styx-a1"))
    await ends(market, machine, "keeper_lost")


async def test_a_machine_ends_when_its_keeper_is_killed(market: LocalMarket) -> None:
    machine = await rented(market)
    folder = folder_of(market, machine)
    os.kill(folder.status().keeper_pid, signal.SIGKILL)
    await soon(lambda: not folder.is_kept, "the keeper is gone")
    assert alive(folder), "the stand-in lives on"
    await ends(market, machine, "keeper_lost")


async def test_the_same_key_does_not_bring_back_a_machine_that_has_ended(market: LocalMarket) -> None:
    machine = await rented(market)
    await market.provider.release(machine.place, machine.cloud_id)
    await ends(market, machine, "released")
    again = await market.provider.rent(market.order("styx-a1"))
    assert (again.cloud_id, again.state) == (machine.cloud_id, MachineState.ENDED)


async def test_an_agent_that_falls_is_started_again(market: LocalMarket) -> None:
    machine = await rented(market)
    home = f"styx_agent-stand-in --data-dir {folder_of(market, machine).agent}"
    [first] = processes(home)
    os.kill(first, signal.SIGKILL)
    await soon(lambda: processes(home) not in ([], [first]), "there is another one")
    assert (await state_of(market, machine))[0] is MachineState.RUNNING


# It ends by itself.


@pytest.mark.parametrize(
    ("changes", "reason"), [({"join_seconds": 0.2}, "never_joined"), ({"life_seconds": 0.2}, "expired")]
)
async def test_a_machine_ends_by_itself(market: LocalMarket, changes: dict[str, float], reason: str) -> None:
    market.stand_ins.changes = changes
    machine = await market.provider.rent(market.order("styx-a1"))
    await ends(market, machine, reason)


async def test_a_machine_that_joined_and_hears_nothing_more_ends(tmp_path: Path) -> None:
    async with open_market(tmp_path, StandIns(tmp_path / "alone", ALONE)) as market:
        market.stand_ins.changes = {"join_seconds": 60, "silent_seconds": 0.3}
        machine = await rented(market)
        (folder_of(market, machine).agent / "identity.json").write_text(json.dumps({"agent_id": 7}))
        await ends(market, machine, "silent")


async def test_a_machine_ends_when_its_agent_was_removed(tmp_path: Path) -> None:
    async with open_market(tmp_path, StandIns(tmp_path / "removed", "#!/bin/sh\nexit 3\n")) as market:
        machine = await market.provider.rent(market.order("styx-a1"))
        await ends(market, machine, "agent_removed")


async def test_a_machine_ends_when_its_folder_is_removed(market: LocalMarket) -> None:
    machine = await rented(market)
    folder = folder_of(market, machine)
    folder.path.rename(market.root / "away")
    await soon(lambda: not alive(folder), "no process is left")


async def test_an_agent_that_does_not_end_is_made_to(tmp_path: Path) -> None:
    stubborn = "#!/bin/sh\ntrap '' TERM\nwhile :; do sleep 3600; done\n"
    async with open_market(tmp_path, StandIns(tmp_path / "stubborn", stubborn)) as market:
        market.stand_ins.changes = {"stop_seconds": 0.2}
        machine = await rented(market)
        await market.provider.release(machine.place, machine.cloud_id)
        await ends(market, machine, "released")


async def test_what_has_ended_is_forgotten_after_an_hour(market: LocalMarket) -> None:
    machine = await rented(market)
    await market.provider.release(machine.place, machine.cloud_id)
    await ends(market, machine, "released")
    folder = folder_of(market, machine)
    status = folder.status()
    assert status.end_time is not None
    folder.note(replace(status, end_time=status.end_time - KEEP_SECONDS))
    assert await market.ledger() == []
    assert os.listdir(market.root / "machines") == []


async def test_all_machines_of_a_folder_can_be_ended_at_once(market: LocalMarket) -> None:
    machines = [await rented(market, key) for key in ("styx-a1", "styx-a2")]
    words = [sys.executable, "-P", "-m", "styx_server.providers.processes", "end", str(market.root)]
    ending = await asyncio.to_thread(subprocess.run, words, capture_output=True, text=True, check=True)
    assert ending.stdout == "ended 2 machines\n"
    for machine in machines:
        await ends(market, machine, "released")


# Nobody else is hurt.


def test_a_number_that_another_process_has_now_is_not_signalled(innocent: subprocess.Popen[bytes]) -> None:
    ticks = kin.start_ticks(innocent.pid)
    assert not kin.send(innocent.pid, ticks - 1, signal.SIGKILL)
    assert innocent.poll() is None
    assert kin.send(innocent.pid, ticks, signal.SIGKILL)
    assert innocent.wait() == -signal.SIGKILL


async def test_the_number_of_a_dead_keeper_means_nothing(
    market: LocalMarket, innocent: subprocess.Popen[bytes]
) -> None:
    machine = await rented(market)
    folder = folder_of(market, machine)
    os.kill(folder.status().keeper_pid, signal.SIGKILL)
    await soon(lambda: not folder.is_kept, "the keeper is gone")
    folder.note(replace(folder.status(), keeper_pid=innocent.pid))
    await market.provider.release(machine.place, machine.cloud_id)
    await ends(market, machine, "released")
    assert innocent.poll() is None


def test_a_machine_is_told_nothing_of_the_server_that_rented_it() -> None:
    secrets = {"STYX_ADMIN_TOKEN": "1", "STYX_DATABASE_URL": "2", "AWS_SECRET_ACCESS_KEY": "3"}
    assert base_environment({**secrets, "PATH": "/bin", "LC_ALL": "C"}) == {"PATH": "/bin", "LC_ALL": "C"}


# Refusals of its own.


async def test_there_are_no_more_machines_than_were_allowed(market: LocalMarket) -> None:
    provider = LocalProvider(market.root, max_machines=1, start=market.stand_ins.start)
    machine = await provider.rent(market.order("styx-a1"))
    with pytest.raises(ProviderError) as caught:
        await provider.rent(market.order("styx-a2"))
    assert (caught.value.kind, caught.value.code) == (RefusalKind.CAPACITY, "MaxMachines")
    assert (await provider.rent(market.order("styx-a1"))).cloud_id == machine.cloud_id
    assert os.listdir(market.root / "machines") == ["styx-a1"]


async def test_what_this_computer_does_not_have_cannot_be_rented(market: LocalMarket) -> None:
    order = market.order("styx-a1")
    size = replace(order.offer.size, cpus_milli=10**9)
    with pytest.raises(ProviderError) as caught:
        await market.provider.rent(replace(order, offer=replace(order.offer, size=size)))
    assert caught.value.kind is RefusalKind.BAD_TYPE
    with pytest.raises(ProviderError) as caught:
        await market.provider.rent(replace(order, image="ubuntu"))
    assert caught.value.kind is RefusalKind.BAD_IMAGE


@pytest.mark.parametrize("key", ["", "../../etc", "A", "a" * 65, "a/b", ".new-a"])
async def test_a_key_is_no_path(market: LocalMarket, key: str) -> None:
    with pytest.raises(ProviderError) as caught:
        await market.provider.rent(market.order(key))
    assert caught.value.kind is RefusalKind.BAD_REQUEST
    await market.provider.release(market.order("styx-a1").offer.place, f"local-{key}")


async def test_a_folder_that_cannot_be_used_is_said(tmp_path: Path, market: LocalMarket) -> None:
    (tmp_path / "file").touch()
    provider = LocalProvider(tmp_path / "file" / "local")
    with pytest.raises(ProviderError) as caught:
        await provider.rent(market.order("styx-a1"))
    assert (caught.value.kind, caught.value.code) == (RefusalKind.PERMISSION, "ENOTDIR")
    assert not (await provider.check()).usable


async def test_a_record_that_nobody_understands_is_no_empty_list(market: LocalMarket) -> None:
    machine = await rented(market)
    status = folder_of(market, machine).path / "status.json"
    kept = status.read_text()
    status.write_text('{"state": 1')
    with pytest.raises(ProviderError, match=r"status\.json cannot be understood"):
        await market.provider.list(market.deployment, REGION)
    status.write_text(kept)


def test_sizes_halve_down_to_one_core() -> None:
    cores = [size.cpus_milli // 1000 for size in sizes().values()]
    assert cores[0] == len(os.sched_getaffinity(0))
    assert cores[-1] == 1
    assert all(after == before // 2 for before, after in itertools.pairwise(cores))
