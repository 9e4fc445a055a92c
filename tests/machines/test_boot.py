"""From the boot script to the first line of output: a real server, a real agent, and a folder for a machine."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

import styx
from styx_server.bundle import Shelf
from styx_server.core.machines.instance import Boot
from styx_server.core.machines.offer import MachineSize
from styx_server.core.machines.user_data import boot_script
from tests.machines.conftest import Home
from tests.support.machine import new_machine
from tests.support.supervisor_driver import processes
from tests.support.until import soon_true, until

SIZE = MachineSize(cpus_milli=4000, memory_bytes=16 << 30, gpu_name="L4", gpu_count=1)


@pytest.mark.parametrize("systemd", [True, False], ids=["systemd", "container"])
async def test_a_machine_boots_joins_and_runs(home: Home, systemd: bool, capsys: pytest.CaptureFixture[str]) -> None:
    script = boot_script(await home.boot(), SIZE)
    with new_machine(systemd=systemd) as machine:
        begun = time.monotonic()
        process = machine.start(script)
        agent = await home.joined()
        joined = time.monotonic()
        assert await home.output("echo $0 is here; umask") == b"/bin/sh is here\n0022\n"
        with capsys.disabled():
            line = f"boot to joined {joined - begun:.1f} s, to the first line {time.monotonic() - begun:.1f} s"
            sys.stdout.write(f"\n{line}\n")
        assert agent.name == "i9"
        assert agent.capacity is not None
        assert (agent.capacity.cpus, agent.capacity.memory_bytes) == (4.0, 16 << 30)
        assert [gpu.name for gpu in agent.capacity.gpus] == ["L4"]
        machine.look()
        assert not (machine.root / "etc/styx/join.token").exists()
        if systemd:
            assert process.wait(30) == 0
            assert machine.calls[-3:] == [
                "systemctl daemon-reload",
                "systemctl enable styx-agent.service",
                "systemctl start --no-block styx-agent.service",
            ]
            return
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 60) == 0
        assert processes(str(machine.root)) == []


async def test_a_task_survives_the_agents_program(home: Home) -> None:
    with new_machine(systemd=False) as machine:
        process = machine.start(boot_script(await home.boot(), SIZE))
        await home.joined()
        task_id = await home.client.submit_task(
            "until [ -e $HOME_OF_TEST/go ]; do sleep 0.05; done; echo done", env={"HOME_OF_TEST": str(machine.root)}
        )
        await soon_true(lambda: _runs(home, task_id), "the task runs")
        (link,) = [pid for pid in processes("-m styx_agent") if str(machine.data) in _words(pid)]
        os.kill(link, signal.SIGKILL)
        (machine.root / "go").touch()
        chunks = [chunk.data async for chunk in home.client.logs(task_id, follow=True)]
        assert b"".join(chunks) == b"done\n"
        assert len((await home.client.get_task(task_id)).attempts) == 1
        process.terminate()
        assert await asyncio.to_thread(process.wait, 60) == 0


async def test_a_second_boot_needs_no_server_to_start_the_agent(home: Home) -> None:
    script = boot_script(await home.boot(), SIZE)
    with new_machine(systemd=True) as machine:
        machine.boot(script)
        await home.joined()
        machine.look()
        fetched = machine.console.read_text()
        machine.boot(script)
        assert machine.console.read_text() == fetched
        assert not (machine.root / "etc/styx/join.token").exists()


async def test_a_token_that_is_refused_ends_a_container_at_once(home: Home) -> None:
    boot = Boot(server_urls=(home.http,), join_token="styxj_1_wrong", agent_name="i9", bundle_sha256=home.digest)
    with new_machine(systemd=False) as machine:
        process = machine.start(boot_script(boot, SIZE))
        assert await asyncio.to_thread(process.wait, 90) == 2
        assert "join token" in machine.console.read_text()


async def test_a_container_that_no_server_takes_ends_itself() -> None:
    boot = Boot(
        server_urls=("http://127.0.0.1:1",),
        join_token="once",
        agent_name="i9",
        bundle_sha256="0" * 64,
        join_seconds=1,
    )
    with new_machine(systemd=False) as machine:
        process = machine.start(boot_script(boot, SIZE))
        assert await asyncio.to_thread(process.wait, 60) != 0
        assert "no server has taken it within 1 s" in machine.console.read_text()


def test_the_dead_man_watches_before_the_agent_is_there() -> None:
    boot = Boot(server_urls=("http://127.0.0.1:1",), join_token="once", agent_name="i9", bundle_sha256="0" * 64)
    with new_machine(systemd=True) as machine:
        process = machine.start(boot_script(boot, SIZE))
        until(lambda: "Connection refused" in machine.console.read_text(), "it tries to fetch the agent")
        assert machine.calls[-1] == "systemctl start --no-block styx-dead-man.timer"
        machine.pass_time(901)
        assert "no server has taken it" in machine.look()
        assert machine.calls[-1] == "poweroff "
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


async def test_a_python_that_nobody_packed_for_is_named_on_the_console(home: Home) -> None:
    listed = Shelf(home.server.folder).find(home.digest)
    assert listed is not None
    text = listed.read_text().replace('"3.', '"2.')
    digest = hashlib.sha256(text.encode()).hexdigest()
    (listed.parent / digest).write_text(text)
    with new_machine(systemd=True) as machine:
        process = machine.start(boot_script(await home.boot(bundle_sha256=digest), SIZE))
        assert await asyncio.to_thread(process.wait, 60) == 1
        assert "no agent for Python 3." in machine.console.read_text()
        assert "styx-server bundle" in machine.console.read_text()


async def test_what_has_another_digest_is_not_believed(home: Home) -> None:
    listed = Shelf(home.server.folder).find(home.digest)
    assert listed is not None
    listed.write_text(listed.read_text() + " ")
    with new_machine(systemd=True) as machine:
        process = machine.start(boot_script(await home.boot(), SIZE))
        until(lambda: "gave something else" in machine.console.read_text(), "it has looked")
        assert [path.name for path in (machine.root / "opt/styx").iterdir()] == ["bin"]
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


async def test_the_server_gives_bundles_to_everybody_and_nothing_else(home: Home) -> None:
    def ask(path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        request = urllib.request.Request(f"{home.http}/bundles/{path}", method=method)  # noqa: S310 - our own address
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - see above
                return answer.status, dict(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers), error.read()

    status, headers, body = await asyncio.to_thread(ask, home.digest)
    assert status == 200
    assert hashlib.sha256(body).hexdigest() == home.digest
    assert headers["cache-control"] == "public, max-age=31536000, immutable"
    status, headers, body = await asyncio.to_thread(ask, home.digest, "HEAD")
    assert (status, body) == (200, b"")
    assert int(headers["content-length"]) > 0
    for path in ("0" * 64, "current.json", "..%2f..%2fserver.log", "%2e%2e/server.log", ""):
        assert (await asyncio.to_thread(ask, path))[0] == 404
    assert (await asyncio.to_thread(ask, home.digest, "DELETE"))[0] == 405


async def _runs(home: Home, task_id: str) -> bool:
    return (await home.client.get_task(task_id)).state == styx.TaskState.RUNNING


def _words(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
