"""Machines of this computer with real agents on them: what they offer, and that nothing outlives them."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from styx_agent.supervisor.guardian import cgroup_name, tag_of
from styx_server.core.machines.instance import Boot, CloudMachine, MachineState, RentOrder
from styx_server.providers.local import NAME, LocalProvider
from styx_server.providers.processes.folder import MachineFolder
from styx_server.providers.processes.room import MachineRoom
from tests.providers.local_market import LocalMarket
from tests.support.scripted_server import JOIN_TOKEN, ScriptedServer, scripted_server
from tests.support.supervisor_driver import processes, sleepers
from tests.support.until import soon, soon_true

SLEEP = "31557"


class RealMachines:
    """A server, and a provider that rents agents for it."""

    def __init__(self, folder: Path, server: ScriptedServer, port: int) -> None:
        self.server = server
        self.room = MachineRoom(folder / "local", name=NAME)
        self.provider = LocalProvider(folder / "local")
        self._orders = LocalMarket(folder)
        self._url = f"grpc://127.0.0.1:{port}"

    def order(self, *, join_token: str = JOIN_TOKEN) -> RentOrder:
        boot = Boot(server_urls=(self._url,), join_token=join_token, agent_name="rented-1")
        return replace(self._orders.order("styx-a1"), boot=boot)

    async def joined(self) -> CloudMachine:
        """A machine whose agent has a session."""
        machine = await self.provider.rent(self.order())
        await soon(lambda: bool(self.server.sessions), "the agent has a session")
        return machine

    def folder(self) -> MachineFolder:
        folder = self.room.folder_of("local-styx-a1")
        assert folder is not None
        return folder

    async def ended(self) -> str:
        """Waits until the machine has ended with all that was on it, and says why it did."""
        await soon_true(self._has_ended, "the machine ends")
        folder = self.folder()
        await soon(lambda: not processes(str(folder.path)), "the keeper goes when it has said so")
        assert sleepers(SLEEP) == []
        assert not folder.agent.exists()
        assert b"styx_join" not in b"".join(path.read_bytes() for path in folder.path.iterdir())
        assert control_groups(folder) == []
        return self.room.machines()[0].reason

    async def _has_ended(self) -> bool:
        return [machine.state for machine in self.room.machines()] == [MachineState.ENDED]


def control_groups(folder: MachineFolder) -> list[str]:
    """Those of a machine's tasks. Groups of others come and go meanwhile, which only `os.walk` takes well."""
    name = cgroup_name(tag_of(str(folder.agent)))
    return [place for place, groups, _ in os.walk("/sys/fs/cgroup") if name in groups]


@pytest.fixture
async def real(tmp_path: Path) -> AsyncIterator[RealMachines]:
    async with scripted_server() as (server, port):
        machines = RealMachines(tmp_path, server, port)
        yield machines
        machines.room.end_all()
        await soon_true(machines._has_ended, "the machine ends")


async def test_the_agent_offers_what_the_order_says(real: RealMachines) -> None:
    order = real.order()
    size = order.offer.size
    await real.joined()
    hello = real.server.session.hello
    assert hello.capacity.cpus == size.cpus_milli / 1000
    assert hello.capacity.memory_bytes == size.memory_bytes
    assert list(hello.capacity.gpus) == []


async def test_a_released_machine_takes_its_tasks_with_it(real: RealMachines) -> None:
    machine = await real.joined()
    fence = real.server.assign(f"setsid sleep {SLEEP} & sleep {SLEEP}")
    await soon(lambda: len(sleepers(SLEEP)) == 2, "the task and its stray run")
    await real.provider.release(machine.place, machine.cloud_id)
    assert await real.ended() == "released"
    assert real.server.ended(fence), "the agent had the time to tell"


async def test_a_machine_whose_keeper_is_killed_takes_its_tasks_with_it(real: RealMachines) -> None:
    await real.joined()
    real.server.assign(f"setsid sleep {SLEEP} & trap '' TERM; sleep {SLEEP}")
    await soon(lambda: len(sleepers(SLEEP)) == 2, "the task and its stray run")
    os.kill(real.folder().status().keeper_pid, signal.SIGKILL)
    assert await real.ended() == "keeper_lost"


async def test_tasks_outlive_the_agents_link_on_a_machine(real: RealMachines) -> None:
    await real.joined()
    fence = real.server.assign(f"sleep {SLEEP}")
    await soon(lambda: real.server.running(fence), "the task runs")
    (task,) = sleepers(SLEEP)
    (link,) = processes(f"styx_agent --server-url {real._url}")
    os.kill(link, signal.SIGKILL)
    await soon(lambda: len(real.server.sessions) == 2, "the agent is back")
    assert sleepers(SLEEP) == [task]
    assert [held.fence for held in real.server.session.hello.attempts] == [fence]


async def test_an_agent_that_may_not_join_ends_its_machine(real: RealMachines) -> None:
    await real.provider.rent(real.order(join_token="used-up"))
    assert await real.ended() == "agent_refused"
