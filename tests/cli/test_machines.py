"""`styx pool`, `styx instance` and the like, as a user types them, against a server with its database."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from styx_server.core.machines.instance import InstanceState
from styx_server.embedded import PostgresAddress
from tests.support.rented import a_machine
from tests.support.server import Server, running

TOKEN = "styx_admin_for_tests"


@dataclass(frozen=True)
class Shell:
    """A user at a shell, and the server that he talks to."""

    server: Server
    env: Mapping[str, str]

    async def run(self, *words: str, stdin: bytes = b"") -> tuple[int, str, str]:
        """Runs a command to its end: code, answer, talk."""
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).parent / "styx"),
            *words,
            env=self.env,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate(stdin)
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    async def good(self, *words: str) -> str:
        """The answer of a command that must succeed."""
        code, out, err = await self.run(*words)
        assert code == 0, err
        return out

    async def data(self, *words: str) -> Any:
        """The same as data."""
        return json.loads(await self.good(*words, "-o", "json"))


@pytest.fixture
async def shell(database: PostgresAddress, tmp_path: Path) -> AsyncIterator[Shell]:
    async with running(database) as server:
        await server.app.access.ensure_admin(TOKEN)
        listening = server.app.grpc_server()
        number = await listening.start("127.0.0.1", 0, None)
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "STYX_SERVER_URL": f"grpc://127.0.0.1:{number}",
            "STYX_TOKEN": TOKEN,
        }
        yield Shell(server, env)
        await listening.stop(0)


async def test_a_pool_is_made_shown_changed_and_deleted(shell: Shell) -> None:
    words = ("--max", "4", "--infra", "aws/us-east-1", "--infra", "gcp", "--spot", "spot-with-fallback")
    shown = await shell.good("pool", "create", "gpu", *words, "--max-hourly-cost", "20", "-l", "team=vision")
    assert "aws/us-east-1, gcp" in shown
    assert "$20.00/h" in shown
    made = await shell.data("pool", "show", "gpu")
    assert made["spec"]["maxMachines"] == 4
    assert made["spec"]["spot"] == "SPOT_WITH_FALLBACK"
    changed = await shell.data("pool", "update", "gpu", "--max", "8", "--reset", "max-hourly-cost", "--idle", "10m")
    assert (changed["spec"]["maxMachines"], changed["spec"]["idleTimeout"]) == (8, "600s")
    assert "maxHourlyCost" not in changed["spec"]
    assert changed["spec"]["labels"] == {"team": "vision"}
    assert await shell.good("pool", "list", "-o", "name") == "default\ngpu\n"
    code, _, talk = await shell.run("pool", "update", "gpu", "--max", "9", "--generation", "1")
    assert code == 1
    assert "generation 2" in talk
    assert await shell.good("pool", "delete", "gpu") == ""
    code, _, talk = await shell.run("pool", "show", "gpu")
    assert code == 1
    assert "hint: see `styx pool list`" in talk


async def test_a_change_of_nothing_is_a_wrong_command_line(shell: Shell) -> None:
    for words in ([], ["--reset", "nonsense"], ["--max", "3", "--reset", "max"]):
        assert (await shell.run("pool", "update", "default", *words))[0] == 2


async def test_rented_machines_are_listed_and_shown(shell: Shell) -> None:
    await a_machine(shell.server, 1, InstanceState.TERMINATED, hours=2.5)
    await a_machine(shell.server, 2, pool="gpu")
    table = await shell.good("instance", "list")
    assert "i2" in table
    assert "i1" not in table
    assert "$1.00/h" in table
    assert await shell.good("instance", "list", "--all", "-o", "name") == "i2\ni1\n"
    assert await shell.good("instance", "list", "--state", "ready", "--pool", "gpu", "-o", "name") == "i2\n"
    shown = await shell.good("instance", "show", "i1")
    assert "$2.50" in shown
    assert "fake/north/north-a" in shown
    assert (await shell.run("instance", "show", "i9"))[0] == 1
    assert (await shell.run("instance", "terminate", "i2", "--now", "--deadline", "1m"))[0] == 2
