"""`styx up` and `styx down` with the real server and the real agent."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from styx_cli.local.processes import start_ticks
from tests.support.programs import Finished, start, styx
from tests.support.until import soon

FREE_PORTS = ("--grpc-port", "0", "--http-port", "0")


@pytest.fixture
async def folder(tmp_path: Path) -> AsyncIterator[Path]:
    """A data folder; whatever runs in it at the end is stopped, and must be gone."""
    yield tmp_path / "data"
    await styx(tmp_path / "data", "down")
    left = _processes_of(tmp_path)
    assert not left, left


def _processes_of(folder: Path) -> list[str]:
    """Command lines that name the folder: servers, agents, supervisors, databases."""
    found = []
    for each in Path("/proc").iterdir():
        try:
            line = (each / "cmdline").read_bytes().replace(b"\0", b" ").decode() if each.name.isdigit() else ""
        except OSError:
            continue
        if str(folder) in line and start_ticks(int(each.name)) is not None:
            found.append(f"{each.name} {line}")
    return found


def _addresses_in(folder: Path) -> list[Path]:
    """What says that something runs here."""
    return [*folder.rglob("endpoint.json"), *folder.rglob("database.json")]


async def _up(folder: Path, *words: str) -> Finished:
    return await styx(folder, "up", "--detach", *FREE_PORTS, *words)


def _endpoint_pid(folder: Path) -> int:
    try:
        return int(json.loads((folder / "endpoint.json").read_text())["pid"])
    except (OSError, ValueError):
        return 0


async def test_a_detached_stack_works_survives_a_restart_and_stops(folder: Path) -> None:
    done = await _up(folder)
    assert done.code == 0, done.talk
    assert "Styx 0.1.0 is up" in done.text
    assert "a1 is ready" in done.text
    ran = await styx(folder, "run", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (ran.code, ran.out, ran.err) == (7, b"out\n", b"err\n")
    again = await _up(folder)
    assert again.code == 1
    assert "already" in again.talk
    down = await styx(folder, "down")
    assert (down.code, down.talk) == (0, "stopped\n")
    assert not _processes_of(folder)
    assert not (folder / "endpoint.json").exists()
    assert not (folder / "up.json").exists()
    assert (await styx(folder, "down")).talk.startswith("nothing runs")

    assert (await _up(folder)).code == 0
    assert (await styx(folder, "logs", "t1")).text == "out\n"
    agents = json.loads((await styx(folder, "agent", "list", "-o", "json")).text)
    assert [agent["id"] for agent in agents] == ["a1"]


async def test_another_number_of_servers_goes_on_with_what_is_there(folder: Path) -> None:
    for number, words in enumerate([(), ("--replicas", "2"), ("--replicas", "1")], 1):
        up = await _up(folder, *words)
        assert up.code == 0, up.talk
        assert up.text.count("  server  ") == (2 if number == 2 else 1)
        ran = await styx(folder, "run", "--", "echo", f"with {words}")
        assert (ran.code, ran.text) == (0, f"with {words}\n")
        assert (await styx(folder, "logs", "t1")).text == "with ()\n"
        agents = json.loads((await styx(folder, "agent", "list", "-o", "json")).text)
        assert [agent["id"] for agent in agents] == ["a1"]
        assert (await styx(folder, "down")).code == 0
        assert not _processes_of(folder)
        assert not _addresses_in(folder)


async def test_several_agents_share_the_machine(folder: Path) -> None:
    assert (await _up(folder, "--agents", "2")).code == 0
    agents = json.loads((await styx(folder, "agent", "list", "-o", "json")).text)
    assert [agent["state"] for agent in agents] == ["READY", "READY"]
    total = sum(agent["capacity"]["cpus"] for agent in agents)
    assert total == pytest.approx(len(os.sched_getaffinity(0)), rel=0.01)


async def test_in_the_foreground_a_signal_stops_everything_in_order(folder: Path) -> None:
    process = await start(folder, "up", *FREE_PORTS)
    assert process.stdout is not None
    while b"is ready" not in (line := await process.stdout.readline()):
        assert line, "it ended before it was ready"
    submitted = await styx(folder, "submit", "--", "sleep", "1000")
    assert submitted.code == 0
    process.send_signal(signal.SIGTERM)
    out, _ = await process.communicate()
    assert process.returncode == 0
    assert out == b"stopping\nstopped\n"


async def test_what_falls_is_started_again(folder: Path) -> None:
    assert (await _up(folder)).code == 0
    before = json.loads((folder / "endpoint.json").read_text())
    os.kill(before["pid"], signal.SIGKILL)
    await soon(lambda: _endpoint_pid(folder) not in (0, before["pid"]), "another server")
    after = json.loads((folder / "endpoint.json").read_text())
    assert (after["grpc"], after["http"]) == (before["grpc"], before["http"])
    links = [line for line in _processes_of(folder) if " -m styx_agent " in line]
    os.kill(int(links[0].split()[0]), signal.SIGKILL)
    assert (await styx(folder, "run", "--", "echo", "still here")).out == b"still here\n"
    await soon(lambda: "agent 1 was killed by signal 9" in (folder / "logs" / "up.log").read_text(), "a word about it")


@pytest.mark.parametrize("replicas", ["1", "2"])
async def test_when_it_is_killed_nothing_is_left(folder: Path, replicas: str) -> None:
    assert (await _up(folder, "--replicas", replicas)).code == 0
    os.kill(json.loads((folder / "up.json").read_text())["pid"], signal.SIGKILL)
    await soon(lambda: not _processes_of(folder), f"everything is gone: {_processes_of(folder)}")
    assert (await _up(folder, "--replicas", replicas)).code == 0


async def test_a_port_in_use_is_named(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for flag in ("--grpc-port", "--http-port"):
            for more in ([], ["--detach"], ["--replicas=2"]):
                done = await styx(folder, "up", *FREE_PORTS, flag, str(port), *more)
                assert done.code == 1
                assert f"port {port} is in use" in done.talk
                assert flag in done.talk


async def test_a_server_that_cannot_start_shows_why(folder: Path) -> None:
    nowhere = "postgresql://nobody@127.0.0.1:1/none"
    done = await styx(folder, "up", *FREE_PORTS, "--database-url", nowhere, env={"STYX_DATABASE_WAIT": "0"})
    assert done.code == 1
    assert "the server ended" in done.talk
    assert "server.log" in done.talk
    assert "Traceback" not in done.talk.split("server.log")[0]


@pytest.mark.parametrize("replicas", ["1", "2"])
async def test_settings_that_a_server_refuses_are_shown(folder: Path, replicas: str) -> None:
    done = await styx(folder, "up", *FREE_PORTS, "--replicas", replicas, env={"STYX_HOST": "0.0.0.0"})
    assert done.code == 1
    assert "say --insecure if something else protects that network" in done.talk


async def test_an_interrupt_while_it_starts_stops_it(folder: Path) -> None:
    process = await start(folder, "up", *FREE_PORTS)
    await soon((folder / "logs" / "server.log").exists, "the server begins")
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(60):
        await process.communicate()
    assert process.returncode == 0
