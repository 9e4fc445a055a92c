"""Doubles of clouds whose machines really run: what was rented there is switched on here with what it was told at boot,
and off when the cloud has ended it.

Next: `test_clouds_end_to_end.py`, which uses it; `tests/providers/aws_double.py` and `gce_double.py`, the doubles.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Protocol

import yaml
from google.cloud import compute_v1

from styx_server.core.machines.instance import CloudMachine, MachineState
from styx_server.providers.gcp.machine import machine_of
from tests.providers.aws_double import PRICES, AwsDouble
from tests.providers.gce_double import GceDouble
from tests.providers.gce_rules import public
from tests.support.cloud_machine import CloudMachine as ChrootMachine
from tests.support.machine import Machine, new_machine
from tests.support.until import until

DEBIAN = "projects/debian-cloud/global/images/family/debian-12"
"""An image without cloud-init: Google's guest agent runs the boot script."""


class Cloud(Protocol):
    """A double of one provider, and a hand on the other side.

    Attributes:
        provider: its name.
        environment: what a server needs to be let in.
        table: of the server's file.
        zones: where it has machines, in the order in which they are tried.
    """

    provider: str
    environment: Mapping[str, str]
    table: str
    zones: tuple[str, ...]

    def ledger(self) -> Sequence[CloudMachine]:
        """Every machine that was ever made, in its true state."""
        ...

    def told(self, cloud_id: str) -> str:
        """What a machine is told at boot."""
        ...

    def go_on(self) -> None:
        """What starts has started, what ends has ended."""
        ...

    def run_out(self, zone: str) -> None:
        """The next order in a zone is refused: there is no such machine."""
        ...

    def take_back(self, cloud_id: str) -> None:
        """A spot machine is wanted for somebody else."""
        ...

    def be_away(self, away: bool) -> None:
        """Whether nothing answers at its address."""
        ...


class Amazon:
    """EC2 in one region."""

    provider = "aws"
    zones = ("us-east-1a", "us-east-1b")

    def __init__(self, double: AwsDouble) -> None:
        self._double = double
        self.environment: Mapping[str, str] = double.environment
        self.table = (
            f'[aws]\nregions = ["us-east-1"]\nendpoint_url = "{double.url}"\nmachine_types = {json.dumps([*PRICES])}\n'
        )

    def ledger(self) -> Sequence[CloudMachine]:
        return self._double.ledger()

    def told(self, cloud_id: str) -> str:
        return self._double.user_data(cloud_id).decode()

    def go_on(self) -> None:
        self._double.settle()

    def run_out(self, zone: str) -> None:
        said = "We currently do not have sufficient capacity in the Availability Zone you requested."
        self._double.fail("RunInstances", "InsufficientInstanceCapacity", said, 500, Placement_AvailabilityZone=zone)

    def take_back(self, cloud_id: str) -> None:
        self._double.interrupt(cloud_id)

    def be_away(self, away: bool) -> None:
        self._double.away = away


class Google:
    """Compute Engine in one region.

    Args:
        image: what machines boot; empty: the usual one, which has cloud-init.
    """

    provider = "gcp"
    zones = ("us-central1-a", "us-central1-b")
    environment: Mapping[str, str] = {}

    def __init__(self, double: GceDouble, image: str = "") -> None:
        self._double = double
        self.table = (
            f'[gcp]\nproject = "{double.project}"\nregions = ["us-central1"]\npoll_seconds = 0.02\n'
            + "".join(f'{name}_endpoint = "{double.url}"\n' for name in ("api", "billing", "resources"))
            + (f'image = "{image}"\n' if image else "")
        )

    def ledger(self) -> Sequence[CloudMachine]:
        return [_true_state(made) for made in list(self._double.ledger)]

    def told(self, cloud_id: str) -> str:
        return self._double.user_data(cloud_id) or self._double.startup_script(cloud_id)

    def go_on(self) -> None:
        self._double.settle()

    def run_out(self, zone: str) -> None:
        said = f"The zone 'projects/p/zones/{zone}' does not have enough resources available to fulfill the request."
        self._double.refuse_order("ZONE_RESOURCE_POOL_EXHAUSTED", said, zone=zone)

    def take_back(self, cloud_id: str) -> None:
        self._double.preempt(cloud_id)

    def be_away(self, away: bool) -> None:
        self._double.away = away


def _true_state(made: dict[str, object]) -> CloudMachine:
    machine = machine_of(compute_v1.Instance.from_json(json.dumps(public(made))))
    if "_gone" not in made:
        return machine
    return CloudMachine(
        place=machine.place,
        cloud_id=machine.cloud_id,
        state=MachineState.ENDED,
        key=machine.key,
        tags=machine.tags,
        spot=machine.spot,
    )


@contextmanager
def amazon() -> Iterator[Cloud]:
    """An account with nothing in it."""
    with AwsDouble() as double:
        yield Amazon(double)


@contextmanager
def google(image: str = "") -> Iterator[Cloud]:
    """A project with nothing in it."""
    double = GceDouble()
    try:
        yield Google(double, image)
    finally:
        double.close()


class Hardware(Protocol):
    """Something on which one machine runs."""

    def switch_on(self, told: str) -> None:
        """Boots with what the cloud gives it."""
        ...

    def switch_off(self) -> None:
        """Pulls the plug; nothing runs afterwards."""
        ...


class FolderMachine:
    """A folder, in which the commands of the user-data are run as cloud-init would, but without cloud-init."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._boot: subprocess.Popen[bytes] | None = None

    def switch_on(self, told: str) -> None:
        self._boot = self.machine.start(as_script(told))

    def switch_off(self) -> None:
        until(self._is_off, "nothing runs on the machine any more")
        if self._boot is not None:
            self._boot.wait()

    def _is_off(self) -> bool:
        found = processes_of(self.machine.root)
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not found


class BootedMachine:
    """A root file system, in which the real cloud-init runs."""

    def __init__(self, machine: ChrootMachine) -> None:
        self.machine = machine

    def switch_on(self, told: str) -> None:
        self.machine.start(told)

    def switch_off(self) -> None:
        # The cable stays: its other end is the server's address.
        self.machine.pull_plug()


def as_script(told: str) -> str:
    """What a machine does with it at boot."""
    # There is no metadata service in a folder, and that of the computer below is not to be asked.
    told = re.sub(r"--preemption-notice=(aws|gcp)\b", r"--preemption-notice=\1:http://127.0.0.1:1", told)
    if told.startswith("#!"):
        return told
    assert told.startswith("#cloud-config\n"), told[:80]
    stages = yaml.safe_load(told)
    return "\n".join(shlex.join(command) for stage in ("bootcmd", "runcmd") for command in stages[stage])


def processes_of(root: Path) -> list[int]:
    """What runs on the machine in a folder: its programs name the folder, and tasks work in it."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):
            line = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            here = f"{root}/" in f"{os.readlink(entry / 'cwd')}/"  # noqa: PTH115 - of a process, not of a file
            if here or str(root).encode() in line:
                found.append(int(entry.name))
    return found


@contextmanager
def folder_machine() -> Iterator[Hardware]:
    """A machine as a folder."""
    with new_machine(systemd=True) as machine:
        hardware = FolderMachine(machine)
        try:
            yield hardware
        finally:
            hardware.switch_off()


class Datacenter:
    """Where a cloud's machines run.

    Attributes:
        on: when each machine was switched on, by its id at the cloud.
        off: those that have been switched off.
        dark: while it is set no machine is switched on.
    """

    def __init__(self, cloud: Cloud, hardware: Callable[[], AbstractContextManager[Hardware]]) -> None:
        self.cloud = cloud
        self.on: dict[str, float] = {}
        self.off: set[str] = set()
        self.dark = False
        self._hardware = hardware
        self._running: dict[str, Hardware] = {}
        self._stack = ExitStack()

    async def run(self) -> None:
        """Does what the cloud says, for ever."""
        while True:
            await asyncio.to_thread(self._look)
            await asyncio.sleep(0.02)

    def _look(self) -> None:
        for machine in self.cloud.ledger():
            running = machine.cloud_id in self._running
            if machine.state >= MachineState.ENDING and running:
                self._switch_off(machine.cloud_id)
            elif machine.state is MachineState.RUNNING and machine.cloud_id not in self.on and not self.dark:
                self._switch_on(machine.cloud_id)
        # A machine that is said to have ended runs no more.
        self.cloud.go_on()

    def _switch_on(self, cloud_id: str) -> None:
        hardware = self._stack.enter_context(self._hardware())
        self.on[cloud_id] = time.monotonic()
        self._running[cloud_id] = hardware
        hardware.switch_on(self.cloud.told(cloud_id))

    def _switch_off(self, cloud_id: str) -> None:
        self._running.pop(cloud_id).switch_off()
        self.off.add(cloud_id)

    async def take_back(self, cloud_id: str) -> None:
        """The cloud takes a spot machine back."""
        await asyncio.to_thread(self._switch_off, cloud_id)
        self.cloud.take_back(cloud_id)

    def close(self) -> None:
        """Everything is over."""
        self._stack.close()


@asynccontextmanager
async def datacenter(
    cloud: Cloud, hardware: Callable[[], AbstractContextManager[Hardware]] = folder_machine
) -> AsyncIterator[Datacenter]:
    """One for the length of a block."""
    center = Datacenter(cloud, hardware)
    try:
        async with asyncio.TaskGroup() as group:
            rounds = group.create_task(center.run())
            try:
                yield center
            finally:
                rounds.cancel()
    finally:
        await asyncio.to_thread(center.close)
