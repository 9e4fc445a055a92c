"""The servers of a local stack: one with its database inside, or several beside a database that none takes along.

Starts them in order and knows where they are. Keeping them running and stopping them is the stack's business.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, TypeVar

from styx.locate import ENDPOINT_FILE, LocalEndpoint, read_endpoint, read_token
from styx_cli import clock
from styx_cli.local.children import Child, StartFailed, how_it_ended, start_failed
from styx_cli.local.folder import LocalFolder
from styx_cli.local.plan import (
    ServerSettings,
    UpOptions,
    busy_port,
    check_config_argv,
    child_env,
    database_argv,
    read_settings,
    server_argv,
)
from styx_cli.local.ports import HeldPorts
from styx_cli.sanitize import plain

_DATABASE_FILE = "database.json"
_START_SECONDS = 180.0
_POLL_SECONDS = 0.05

T = TypeVar("T")


class Servers(Protocol):
    """What the stack needs of them."""

    @property
    def stages(self) -> list[list[Child]]:
        """All children in the order in which they are to be stopped; those of a stage together."""
        ...

    async def start(self) -> list[LocalEndpoint]:
        """Starts all of them; returns where each is, the first one first.

        Raises:
            StartFailed: one did not come up. What had been started is in `stages`.
        """
        ...

    def forget(self) -> None:
        """Everything has stopped: leaves no trace that says otherwise."""
        ...


def servers_for(folder: LocalFolder, options: UpOptions, env: Mapping[str, str]) -> Servers:
    """The servers that were asked for, not yet started."""
    return OneServer(folder, options, env) if options.replicas == 1 else SeveralServers(folder, options, env)


class OneServer:
    """A server that brings its own database."""

    def __init__(self, folder: LocalFolder, options: UpOptions, env: Mapping[str, str]) -> None:
        self._folder = folder
        self._options = options
        self._child = Child("server", server_argv(folder.root, options), log=folder.log("server"), env=env)

    @property
    def stages(self) -> list[list[Child]]:
        """The server."""
        return [[self._child]]

    async def start(self) -> list[LocalEndpoint]:
        """Starts the server."""
        if busy := busy_port(self._options):
            raise _port_in_use(*busy)
        await self._child.start()
        endpoint = await _ready(self._child, self._folder.root)
        # A server that falls comes back where its agents and clients know it.
        ports = [int(address.rpartition(":")[2].strip("/")) for address in (endpoint.grpc, endpoint.http)]
        self._child.argv = server_argv(
            self._folder.root, replace(self._options, grpc_port=ports[0], http_port=ports[1])
        )
        return [endpoint]

    def forget(self) -> None:
        """A server that stops cleans up after itself."""


class SeveralServers:
    """Servers on one database: one that the user named, or an embedded one in a process of its own."""

    def __init__(self, folder: LocalFolder, options: UpOptions, env: Mapping[str, str]) -> None:
        self._folder = folder
        self._options = options
        self._env = env
        self._held = HeldPorts()
        self._database: Child | None = None
        self._children: list[Child] = []

    @property
    def stages(self) -> list[list[Child]]:
        """The servers, then the database."""
        return [self._children, [self._database] if self._database else []]

    async def start(self) -> list[LocalEndpoint]:
        """Starts the database, the first server, which makes the schema and the token, then the others."""
        seen = await self._settings()
        plans = self._plans(seen)
        env = self._env if seen.has_database else child_env(self._env, STYX_DATABASE_URL=await self._start_database())
        first = await self._start_server(1, plans[0], env)
        token = self._env.get("STYX_ADMIN_TOKEN") or read_token(self._folder.root)
        env = child_env(env, **({"STYX_ADMIN_TOKEN": token} if token else {}))
        async with asyncio.TaskGroup() as group:
            others = [
                group.create_task(self._start_server(number, plan, env)) for number, plan in enumerate(plans[1:], 2)
            ]
        return [first, *(task.result() for task in others)]

    def forget(self) -> None:
        """Gives the ports up, and takes away the addresses that servers leave for those who go on."""
        self._held.release()
        for number in range(1, self._options.replicas + 1):
            (self._folder.server(number) / ENDPOINT_FILE).unlink(missing_ok=True)

    async def _settings(self) -> ServerSettings:
        """What a server would be told by environment and file, in its own words."""
        process = await asyncio.create_subprocess_exec(
            *check_config_argv(self._folder.root, self._options),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(self._env),
            cwd="/",
        )
        out, err = await process.communicate()
        if process.returncode:
            raise StartFailed(f"the server refuses its settings: {plain(err.decode(errors='replace').strip())}")
        return read_settings(out.decode())

    def _plans(self, seen: ServerSettings) -> list[list[str]]:
        """The command line of each server. The ports of all are fixed now, so that each can be told of the others."""
        asked = [(seen.grpc_port, seen.http_port)] + [(0, 0)] * (self._options.replicas - 1)
        ports = [
            (self._hold(seen.host, grpc, "--grpc-port"), self._hold(seen.host, http, "--http-port"))
            for grpc, http in asked
        ]
        addresses = ",".join(seen.url(http) for _, http in ports)
        argvs = []
        for number, (grpc, http) in enumerate(ports, 1):
            options = replace(self._options, grpc_port=grpc, http_port=http)
            argvs.append([*server_argv(self._folder.server(number), options), "--http-addresses", addresses])
        # An address that stands for the first would make all others unreachable.
        return [argvs[0], *([*argv, "--grpc-advertise", ""] for argv in argvs[1:])]

    def _hold(self, host: str, port: int, flag: str) -> int:
        try:
            return self._held.hold(host, port)
        except OSError:
            raise _port_in_use(port, flag) from None

    async def _start_database(self) -> str:
        self._database = Child(
            "database", database_argv(self._folder.root), log=self._folder.log("database"), env=self._env
        )
        await self._database.start()
        return await _url_of_database(self._database, self._folder.root / _DATABASE_FILE)

    async def _start_server(self, number: int, argv: Sequence[str], env: Mapping[str, str]) -> LocalEndpoint:
        data_dir = self._folder.server(number)
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        child = Child(f"server {number}", argv, log=self._folder.log(_log_name(number)), env=env)
        self._children.append(child)
        await child.start()
        return await _ready(child, data_dir)


def _log_name(number: int) -> str:
    return "server" if number == 1 else f"server-{number}"


async def _ready(child: Child, data_dir: Path) -> LocalEndpoint:
    """Where a server is, once it serves."""

    def look() -> LocalEndpoint | None:
        endpoint = read_endpoint(data_dir)
        return endpoint if endpoint is not None and endpoint.pid == child.pid else None

    return await _until_it_says(child, look)


async def _url_of_database(child: Child, place: Path) -> str:
    """Where the database is, once it takes connections."""

    def look() -> str | None:
        try:
            document = json.loads(place.read_text())
        except (OSError, ValueError):
            return None
        return str(document["url"]) if document["pid"] == child.pid else None

    return await _until_it_says(child, look)


async def _until_it_says(child: Child, look: Callable[[], T | None]) -> T:
    try:
        async with asyncio.timeout(_START_SECONDS):
            while child.pid is not None:
                if (found := look()) is not None:
                    return found
                await clock.sleep(_POLL_SECONDS)
    except TimeoutError:
        raise start_failed(child, f"was not ready within {_START_SECONDS:.0f} s") from None
    raise start_failed(child, how_it_ended(await child.ended()))


def _port_in_use(port: int, flag: str) -> StartFailed:
    remedy = f"stop who uses it, or choose another with {flag} (0: any free one)"
    return StartFailed(f"port {port} is in use", remedy=remedy)
