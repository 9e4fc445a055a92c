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
from styx_server.machinery import Rental
from tests.support.rented import a_machine
from tests.support.server import Server, running
from tests.support.stall import Stall

TOKEN = "styx_admin_for_tests"


@dataclass(frozen=True)
class Shell:
    """A user at a shell, and the server that he talks to."""

    server: Server
    env: Mapping[str, str]
    stall: Stall

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
    stall = Stall()
    async with running(database, rental=Rental(providers={"fake": stall})) as server:
        await server.app.access.ensure_admin(TOKEN)
        listening = server.app.grpc_server()
        number = await listening.start("127.0.0.1", 0, None)
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "STYX_SERVER_URL": f"grpc://127.0.0.1:{number}",
            "STYX_TOKEN": TOKEN,
        }
        yield Shell(server, env, stall)
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


async def priced(shell: Shell) -> Shell:
    """The same, once the prices are known."""
    code, _, talk = await shell.run("catalog", "refresh")
    assert (code, talk) == (0, "fake: 4 types and places\n")
    return shell


async def test_offers_are_listed_by_price(shell: Shell) -> None:
    await priced(shell)
    assert (await shell.good("offers", "-o", "name")).split() == [
        *("small", "small", "small", "one-l4", "one-l4", "four-l4", "four-l4")
    ]
    table = await shell.good("offers", "--gpus", "L4:4", "--spot")
    assert "$1.50/h" in table
    assert "L4:4" in table
    assert "one-l4" not in table
    found = await shell.data("offers", "--infra", "fake/south", "--on-demand", "-n", "1")
    assert [(offer["machineType"], offer["hourlyPriceMicros"]) for offer in found] == [("small", "190000")]
    assert (await shell.run("offers", "--infra", "fak"))[0] == 2
    models = await shell.data("gpus")
    assert [(model["name"], model["count"]) for model in models] == [("L4", 1), ("L4", 4)]
    assert models[0]["cheapestSpot"]["hourlyPriceMicros"] == "300000"
    assert "$0.8000/h fake/north" in await shell.good("gpus", "L4")


async def test_a_plan_says_what_would_be_rented_and_why(shell: Shell) -> None:
    await priced(shell)
    plan = await shell.good("plan", "--gpus", "L4:1", "--spot", "--", "python", "train.py")
    assert plan.startswith("would rent 1 machine for $0.3000/h\n  1 x one-l4 spot in fake/north: 4 cpus")
    assert "Dropped" in plan
    data = await shell.data("plan", "--cpus", "2", "--count", "6")
    assert [(each["offer"]["region"], each["count"]) for each in data["machines"]] == [("south", 3)]
    assert data["hourlyPriceMicros"] == "570000"
    code, out, _ = await shell.run("plan", "--gpus", "H100:8")
    assert code == 1
    assert out.startswith("nothing fits: of 7 offers")
    assert (await shell.run("plan", "--pool", "nowhere"))[1].startswith("nothing is rented for pool nowhere")


async def test_a_plan_knows_what_is_there_already(shell: Shell) -> None:
    await priced(shell)
    agent = await shell.server.agent()
    assert f"There already: a{agent.agent_id}" in await shell.good("plan")
    await shell.good("freeze")
    assert "renting is frozen" in await shell.good("plan")
    await shell.good("unfreeze")
    await shell.good("budget", "set", "0.05")
    assert "but a budget leaves 0.0500 $ for the next hour" in await shell.good("plan")
    await shell.good("pool", "update", "default", "--max", "0")
    assert "has 0 of at most 0 machines" in await shell.good("plan")


async def test_check_says_what_is_wrong_and_what_to_do(shell: Shell) -> None:
    code, out, _ = await shell.run("check")
    assert code == 1
    assert out == "fake: cannot be used, as me@fake\n  ok  2 regions\n  no  no image\n      make one\n"
    shell.stall.broken = True
    assert "no  the key is not known (BadKey)" in (await shell.run("check", "fake"))[1]
    code, _, talk = await shell.run("check", "fale")
    assert (code, "did you mean fake?" in talk) == (2, True)
    code, _, talk = await shell.run("catalog", "refresh")
    assert code == 1
    assert "the key is not known" in talk


async def test_a_file_of_prices_is_taken(shell: Shell) -> None:
    code, _, talk = await shell.run("catalog", "import", "aws", "-", stdin=b"nonsense\n1\n")
    assert code == 2
    assert "error:" in talk
    head = (
        "InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,GpuInfo,Price,SpotPrice,Region,AvailabilityZone"
    )
    row = "m5.large,,,2.0,8.0,,0.096,0.04,us-east-1,us-east-1a"
    code, _, talk = await shell.run("catalog", "import", "aws", "-", stdin=f"{head}\n{row}\n".encode())
    assert (code, talk) == (0, "aws: 1 types and places\n")


async def test_costs_are_told_and_limited(shell: Shell) -> None:
    await a_machine(shell.server, 1, InstanceState.TERMINATED, hours=2, pool="gpu")
    await a_machine(shell.server, 2, hours=0)
    text = await shell.good("cost", "--by", "pool")
    assert "Cost          $2.00" in text
    assert "$1.00/h for 1 machine" in text
    assert "gpu" in text
    report = await shell.data("cost", "--since", "1d", "--by", "instance")
    assert report["entries"][0]["key"] == "i1"
    assert (await shell.run("cost", "--by", "label"))[0] == 2
    assert (await shell.run("cost", "--since", "yesterday"))[0] == 2
    assert "spent" in await shell.good("budget", "set", "2.10", "--pool", "gpu", "--period", "total")
    listed = await shell.data("budget", "list")
    assert [(each["scope"], each["name"], each["limitMicros"]) for each in listed] == [("POOL", "gpu", "2100000")]
    assert "Budget" in await shell.good("cost")
    await shell.good("budget", "delete", "--pool", "gpu", "--period", "total")
    code, _, talk = await shell.run("budget", "delete", "--pool", "gpu")
    assert code == 1
    assert "styx budget list" in talk


async def test_the_tap_is_closed_and_opened(shell: Shell) -> None:
    assert (await shell.good("freeze")).startswith("renting is frozen: nothing is rented; 0 machines are rented now")
    assert (await shell.data("cost"))["rentingFrozen"]
    assert (await shell.good("unfreeze")).startswith("renting is on")
