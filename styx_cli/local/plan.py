"""What `styx up` is to start: options in, command lines out. Pure, but for a look at this machine's size and ports."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from styx_cli.local.folder import LocalFolder
from styx_cli.local.ports import is_free
from styx_cli.local.processes import cores, memory_bytes

_GRPC_PORT, _HTTP_PORT = 50051, 8080
_NAME_COLUMNS = 17
# Where a parent's own words must not reach a child that is told by flags.
_NOT_FOR_CHILDREN = ("STYX_SERVER_URL", "STYX_TOKEN", "STYX_JOIN_TOKEN", "STYX_JOIN_TOKEN_FILE", "STYX_AGENT_NAME")


@dataclass(frozen=True, slots=True, kw_only=True)
class UpOptions:
    """What a person asked `styx up` for; None is the default of the server."""

    agents: int = 1
    replicas: int = 1
    grpc_port: int | None = None
    http_port: int | None = None
    database_url: str | None = None
    providers: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """What a server was told altogether: by us, by the environment, by its file.

    Attributes:
        has_database: whether somebody named one.
    """

    host: str
    grpc_port: int
    http_port: int
    tls: bool
    has_database: bool

    def url(self, http_port: int) -> str:
        """Where a server with these settings is reached from here; it says the same of itself."""
        # An address that stands for all of them is no address to dial.
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        return f"{'https' if self.tls else 'http'}://{f'[{host}]' if ':' in host else host}:{http_port}"


def server_argv(data_dir: Path, options: UpOptions) -> list[str]:
    """The command line of a server."""
    return [*_program("styx_server"), *_server_flags(data_dir, options)]


def check_config_argv(data_dir: Path, options: UpOptions) -> list[str]:
    """The command line that prints the settings of a server."""
    return [*_program("styx_server"), "check-config", *_server_flags(data_dir, options)]


def database_argv(data_dir: Path) -> list[str]:
    """The command line of a database without a server."""
    return [*_program("styx_server"), "database", "--data-dir", str(data_dir), "--die-with-parent"]


def end_machines_argv(data_dir: Path) -> list[str]:
    """The command line that ends the machines of the made-up cloud: they are processes of this computer."""
    return [*_program("styx_server.providers.processes"), "end", str(data_dir / "fake-cloud")]


def read_settings(text: str) -> ServerSettings:
    """What `styx-server check-config` printed: a column of names, then value and source; no value leaves a blank."""
    values = {line[:_NAME_COLUMNS].strip(): line[_NAME_COLUMNS:] for line in text.splitlines()}
    given = {name: rest.split()[0] for name, rest in values.items() if rest[:1].strip()}
    return ServerSettings(
        host=given["host"],
        grpc_port=int(given["grpc_port"]),
        http_port=int(given["http_port"]),
        tls="tls_cert" in given,
        has_database="database_url" in given,
    )


def agent_argv(folder: LocalFolder, number: int, options: UpOptions, *, url: str) -> list[str]:
    """The command line of one agent. One alone offers the whole machine; several share it, the first has the GPUs."""
    argv = [*_program("styx_agent"), "--server-url", url, "--data-dir", str(folder.agent(number))]
    argv += ["--on-exit", "stop", "--die-with-parent"]
    if options.agents > 1:
        share = {"--cpus": f"{cores() / options.agents:g}", "--memory": str(memory_bytes() // options.agents)}
        argv += [word for pair in share.items() for word in pair]
        argv += ["--name", f"{socket.gethostname()[:190]}-{number}"]
        argv += ["--gpus", "none:0"] if number > 1 else []
    return argv


def child_env(env: Mapping[str, str], **more: str) -> dict[str, str]:
    """The environment of a child."""
    return {key: value for key, value in env.items() if key not in _NOT_FOR_CHILDREN} | more


def busy_port(options: UpOptions, env: Mapping[str, str] = os.environ) -> tuple[int, str] | None:
    """The first port that somebody else listens on, and the flag that chooses another; None when all are free."""
    host = env.get("STYX_HOST") or "127.0.0.1"
    for flag, given, variable, usual in (
        ("--grpc-port", options.grpc_port, "STYX_GRPC_PORT", _GRPC_PORT),
        ("--http-port", options.http_port, "STYX_HTTP_PORT", _HTTP_PORT),
    ):
        named = env.get(variable, "")
        port = given if given is not None else int(named) if named.isdecimal() else usual
        if port and not is_free(host, port):
            return port, flag
    return None


def _server_flags(data_dir: Path, options: UpOptions) -> list[str]:
    flags = ["--data-dir", str(data_dir), "--die-with-parent"]
    for flag, value in (
        ("--grpc-port", options.grpc_port),
        ("--http-port", options.http_port),
        ("--database-url", options.database_url),
        ("--providers", options.providers),
    ):
        flags += [flag, str(value)] if value is not None else []
    return flags


def _program(module: str) -> list[str]:
    # -P: the directory that somebody happens to stand in is no place to import from.
    return [sys.executable, "-P", "-m", module]
