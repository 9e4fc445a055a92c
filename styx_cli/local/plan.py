"""What `styx up` is to start: options in, command lines out. Pure, but for a look at this machine's size and ports."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from styx_cli.local.folder import LocalFolder
from styx_cli.local.processes import cores, memory_bytes

_GRPC_PORT, _HTTP_PORT = 50051, 8080
# Where a parent's own words must not reach a child that is told by flags.
_NOT_FOR_CHILDREN = ("STYX_SERVER_URL", "STYX_TOKEN", "STYX_JOIN_TOKEN", "STYX_JOIN_TOKEN_FILE", "STYX_AGENT_NAME")


@dataclass(frozen=True, slots=True, kw_only=True)
class UpOptions:
    """What a person asked `styx up` for; None is the default of the server."""

    agents: int = 1
    grpc_port: int | None = None
    http_port: int | None = None
    database_url: str | None = None


def server_argv(folder: LocalFolder, options: UpOptions) -> list[str]:
    """The command line of the server."""
    argv = [*_program("styx_server"), "--data-dir", str(folder.root), "--die-with-parent"]
    for flag, value in (
        ("--grpc-port", options.grpc_port),
        ("--http-port", options.http_port),
        ("--database-url", options.database_url),
    ):
        argv += [flag, str(value)] if value is not None else []
    return argv


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
        if port and not _is_free(host, port):
            return port, flag
    return None


def _is_free(host: str, port: int) -> bool:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError:
        return False
    return True


def _program(module: str) -> list[str]:
    # -P: the directory that somebody happens to stand in is no place to import from.
    return [sys.executable, "-P", "-m", module]
