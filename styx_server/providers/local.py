"""The provider `local`: machines are agents as processes of the server's own computer, at no price.

For one person on one computer, and for trying out what pools do. Next: `processes/room.py`, which makes and ends them.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import platform
import shutil
import socket
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from styx_server import clock
from styx_server.core.machines.instance import TAG_DEPLOYMENT, CloudMachine, RentOrder
from styx_server.core.machines.offer import CatalogEntry, MachineSize, Place
from styx_server.core.machines.refusal import RefusalKind, Scope
from styx_server.providers.ports import CheckReport, Finding, ProviderError
from styx_server.providers.processes.folder import Launch, MachineFolder
from styx_server.providers.processes.launch import agent_argv, agent_environment
from styx_server.providers.processes.room import MachineRoom, Starter, start_keeper

NAME: Final = "local"
REGION: Final = "localhost"
DEFAULT_MAX_MACHINES: Final = 4
_MIB: Final = 1 << 20
_LEAST_FREE_BYTES: Final = 256 * _MIB
_ARCHS: Final = {"aarch64": "arm64"}


class LocalProvider:
    """Rents out this computer.

    Args:
        root: the folder of its machines; all servers that are to see the same ones name the same folder.
        max_machines: at a time. Each may be offered all cores, so more than one is more than there is.
        start: starts the keeper of a machine.
    """

    def __init__(self, root: Path, *, max_machines: int = DEFAULT_MAX_MACHINES, start: Starter = start_keeper) -> None:
        self._max_machines = max_machines
        self._room = MachineRoom(root, name=NAME, start=start)

    @property
    def name(self) -> str:
        """`local`."""
        return NAME

    async def offers(self) -> Sequence[CatalogEntry]:
        """One type for each number of cores, halved from all of them down to one."""
        place, now = Place(provider=NAME, region=REGION), clock.now()
        return [
            CatalogEntry(
                place=place, machine_type=name, size=size, price_micros=0, spot_price_micros=None, fetch_time=now
            )
            for name, size in sizes().items()
        ]

    async def rent(self, order: RentOrder) -> CloudMachine:
        """Starts an agent, or finds the one that an earlier call with the same key started."""
        return await asyncio.to_thread(self._rent, order)

    async def release(self, place: Place, cloud_id: str) -> None:
        """Ends an agent, its tasks, and its folder."""
        del place
        await asyncio.to_thread(self._room.release, cloud_id)

    async def list(self, deployment: str, region: str) -> Sequence[CloudMachine]:
        """All agents of this deployment here."""
        machines = await asyncio.to_thread(self._room.machines)
        return [
            machine
            for machine in machines
            if machine.place.region == region and machine.tags.get(TAG_DEPLOYMENT) == deployment
        ]

    async def check(self) -> CheckReport:
        """Whether agents can be started here."""
        return await asyncio.to_thread(self._check)

    async def close(self) -> None:
        """Nothing is held; the machines go on."""

    def _rent(self, order: RentOrder) -> CloudMachine:
        return self._room.rent(
            order,
            Place(provider=NAME, region=REGION),
            lambda home: self._launch(order, home),
            lambda machines: self._admit(order, machines),
        )

    def _launch(self, order: RentOrder, home: Path) -> Launch:
        return Launch(
            argv=agent_argv(order, home),
            env=agent_environment(order, MachineFolder(home.parent).notice),
            join_seconds=order.boot.join_seconds,
            silent_seconds=order.boot.silent_seconds,
            life_seconds=order.life_seconds,
        )

    def _admit(self, order: RentOrder, machines: Sequence[CloudMachine]) -> None:
        if order.offer.spot or sizes().get(order.offer.machine_type) != order.offer.size:
            raise ProviderError(
                RefusalKind.BAD_TYPE,
                f"this computer has no {order.offer}; `styx offers --provider local` lists what it has",
                code="NoSuchType",
            )
        if order.image:
            raise ProviderError(
                RefusalKind.BAD_IMAGE,
                f"a local machine is a process and boots no image such as {order.image}; leave the pool's image out",
                code="NoImages",
                scope=Scope.PROVIDER,
            )
        if len(machines) >= self._max_machines:
            raise ProviderError(
                RefusalKind.CAPACITY,
                f"this computer has {len(machines)} local machines and may have {self._max_machines}; "
                "wait for one to end, or allow more",
                code="MaxMachines",
                scope=Scope.PROVIDER,
            )

    def _check(self) -> CheckReport:
        root = self._room.root
        return CheckReport(
            provider=NAME,
            identity=f"{_user()}@{socket.gethostname()}",
            findings=(folder_finding(root), agent_finding(), _count_finding(self._room, self._max_machines)),
        )


def sizes() -> dict[str, MachineSize]:
    """What this computer can be cut into: `local-8`, `local-4`, `local-2`, `local-1`, memory in proportion."""
    cores, memory = len(os.sched_getaffinity(0)), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found, count = {}, cores
    while count:
        found[f"local-{count}"] = MachineSize(
            cpus_milli=count * 1000, memory_bytes=memory * count // cores // _MIB * _MIB, arch=arch()
        )
        count //= 2
    return found


def arch() -> str:
    """Of this computer."""
    machine = platform.machine()
    return _ARCHS.get(machine, machine)


def folder_finding(root: Path) -> Finding:
    """Whether machines can be made in a folder."""
    existing = next(path for path in (root, *root.parents) if path.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        return Finding(good=False, what=f"{existing} is not to be written to", remedy=f"chown {_user()} {existing}")
    free = shutil.disk_usage(existing).free
    if free < _LEAST_FREE_BYTES:
        return Finding(
            good=False, what=f"{existing} has {free // _MIB} MiB free", remedy=f"du -xh {existing} | sort -h"
        )
    return Finding(good=True, what=f"machines are kept in {root}")


def agent_finding() -> Finding:
    """Whether there is an agent to start."""
    if find_spec("styx_agent") is None:
        return Finding(
            good=False, what="the agent is not installed beside the server", remedy="pip install styx-control"
        )
    return Finding(good=True, what="the agent is installed beside the server")


def _count_finding(room: MachineRoom, most: int) -> Finding:
    try:
        live = sum(machine.state < machine.state.ENDED for machine in room.machines())
    except ProviderError as error:
        return Finding(good=False, what=error.message, remedy=f"ls -l {room.root}/machines")
    return Finding(good=True, what=f"{live} of at most {most} machines are there")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may have users without names
        return str(os.getuid())
