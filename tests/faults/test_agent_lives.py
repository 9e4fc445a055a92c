"""Agents are killed, their machines restart and their disks fill up, under a real server: nothing is lost.

The link is killed 20 times, with `STYX_LONG_FAULTS=1` 100 times; `STYX_FAULT_SEED` chooses the moments. What needs a
file system or a start of the machine of its own needs root, who may mount one in a namespace.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

import styx
from styx.models import LogPolicy, LogStream, WhenFull
from tests.faults.noise import NOISE
from tests.support.lone_agent import LoneAgent
from tests.support.stack import BIN, Stack, memory_of, running_stack
from tests.support.supervisor_driver import sleepers
from tests.support.until import until

LONG = os.environ.get("STYX_LONG_FAULTS") == "1"
SEED = int(os.environ.get("STYX_FAULT_SEED", "1"))
KILLS = 100 if LONG else 20
DISK_BYTES = 40 << 20
LINK_MEMORY_BYTES = 250 << 20

MakeAgent = Callable[..., LoneAgent]

needs_namespaces = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
pytestmark = pytest.mark.timeout(600)

# Writes a fixed amount as quickly as it can; the record says how far it got.
MUCH = """
import random, sys
dice, record = random.Random(int(sys.argv[1])), open(sys.argv[3], "w", buffering=1)
for _ in range(int(sys.argv[2]) >> 16):
    sys.stdout.buffer.write(dice.randbytes(1 << 16))
    sys.stdout.buffer.flush()
    record.write("x")
    record.flush()
"""
# Holds a lock while it lives; an attempt that finds it held betrays an overlap.
WITNESS = """
exec 9>"$DIR/lock"
flock -n 9 || echo overlap >> "$DIR/overlap"
echo "$STYX_ATTEMPT" >> "$DIR/runs"
[ "$STYX_ATTEMPT" = 1 ] || exit 4
(setsid sleep "$NAP" &) ; sleep "$NAP"
"""
_NAPS = itertools.count(os.getpid() * 1000 + 500)


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """A server without agents."""
    with (
        tempfile.TemporaryDirectory(prefix="styx-lives-") as folder,
        running_stack(Path(folder) / "data", "--agents", "0") as up,
    ):
        yield up


@pytest.fixture
def client(stack: Stack) -> Iterator[styx.Client]:
    with styx.Client(data_dir=stack.folder) as client:
        yield client


@pytest.fixture
def make_agent(stack: Stack) -> Iterator[MakeAgent]:
    made: list[LoneAgent] = []
    with tempfile.TemporaryDirectory(prefix="styx-lone-") as folder:

        def make(setting: str = "") -> LoneAgent:
            agent = LoneAgent(stack, Path(folder) / f"{Path(folder).name}-{len(made)}", setting=setting)
            made.append(agent)
            agent.start()
            until(lambda: agent.sessions() == 1, "a session")
            return agent

        yield make
        for agent in made:
            agent.power_off()


def _submit(client: styx.Client, agent: LoneAgent, command: str | list[str], **options: Any) -> str:
    return client.submit_task(command, require_labels={"only": agent.label}, cpus=0.01, **options)


def _python(program: str, *words: object) -> list[str]:
    return [str(BIN / "python"), "-c", program, *map(str, words)]


def _output(client: styx.Client, task_id: str) -> bytes:
    """All of it: a follower waits for what is still on its way."""
    return b"".join(chunk.data for chunk in client.logs(task_id, stream=LogStream.STDOUT, follow=True))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def test_a_task_outlives_its_link_again_and_again(client: styx.Client, make_agent: MakeAgent, tmp_path: Path) -> None:
    agent, dice = make_agent(), Random(SEED)
    record, go = tmp_path / "record", tmp_path / "go"
    task_id = _submit(client, agent, _python(NOISE, SEED, record, go))
    for _ in range(KILLS):
        # A moment of its output: while the link starts, while it says Hello, while it sends.
        more = _size(record) + dice.randint(1, 400_000)
        until(lambda more=more: _size(record) >= more, "the task writes on")  # type: ignore[misc]
        agent.kill_link()
        agent.start()
    go.touch()
    assert client.wait(task_id, timeout=120).exit_code == 7
    assert _output(client, task_id) == record.read_bytes()
    (attempt,) = client.get_task(task_id).attempts
    assert attempt.number == 1
    assert 1 < agent.sessions() <= KILLS + 1


def test_a_killed_supervisor_takes_its_tasks_along_before_the_next_attempt(
    client: styx.Client, make_agent: MakeAgent, tmp_path: Path
) -> None:
    agent, nap = make_agent(), f"1000.{next(_NAPS)}"
    task_id = _submit(client, agent, WITNESS, env={"DIR": str(tmp_path), "NAP": nap})
    until(lambda: len(sleepers(nap)) == 2, "it runs, and its daemon")
    os.kill(agent.supervisor(), signal.SIGKILL)
    assert client.wait(task_id, timeout=60).exit_code == 4
    _check_two_attempts(client, task_id, tmp_path, nap, first="SUPERVISOR_LOST")


@needs_namespaces
def test_a_restart_of_the_machine_is_told_and_the_task_runs_again(
    client: styx.Client, make_agent: MakeAgent, tmp_path: Path
) -> None:
    boot_id = tmp_path / "boot_id"
    boot_id.write_text("11111111-1111-4111-8111-111111111111\n")
    agent, nap = make_agent(f"mount --bind {boot_id} /proc/sys/kernel/random/boot_id"), f"1000.{next(_NAPS)}"
    task_id = _submit(client, agent, WITNESS, env={"DIR": str(tmp_path), "NAP": nap})
    until(lambda: len(sleepers(nap)) == 2, "it runs, and its daemon")
    agent.power_off()
    assert sleepers(nap) == []
    boot_id.write_text("22222222-2222-4222-8222-222222222222\n")
    agent.start()
    # Proof of death, so nobody waits for a lease: that would take the 15 minutes of its disconnect timeout.
    assert client.wait(task_id, timeout=60).exit_code == 4
    _check_two_attempts(client, task_id, tmp_path, nap, first="HOST_REBOOTED")


@pytest.mark.skipif(not LONG, reason="takes two minutes; STYX_LONG_FAULTS=1 asks for it")
def test_a_stopped_link_costs_the_task_its_lease_and_only_then_another_runs(
    client: styx.Client, make_agent: MakeAgent, tmp_path: Path
) -> None:
    """The supervisor ends the attempt without the link; the server waits longer than that, and then tries again."""
    agent, nap = make_agent(), f"1000.{next(_NAPS)}"
    task_id = _submit(client, agent, WITNESS, env={"DIR": str(tmp_path), "NAP": nap}, disconnect_timeout="1m")
    until(lambda: len(sleepers(nap)) == 2, "it runs, and its daemon")
    assert agent.link is not None
    agent.link.send_signal(signal.SIGSTOP)
    until(lambda: sleepers(nap) == [], "the supervisor has ended it", seconds=75)
    until(lambda: client.get_status(task_id).state != "RUNNING", "the server has given it up", seconds=60)
    agent.link.send_signal(signal.SIGCONT)
    assert client.wait(task_id, timeout=120).exit_code == 4
    _check_two_attempts(client, task_id, tmp_path, nap, first="LOST")


@pytest.mark.skipif(not LONG, reason="takes two minutes; STYX_LONG_FAULTS=1 asks for it")
def test_a_machine_that_sleeps_for_longer_than_the_lease_wakes_up_without_its_task(
    client: styx.Client, make_agent: MakeAgent, tmp_path: Path
) -> None:
    """What slept is killed as it wakes: the lease is counted on a clock that goes on meanwhile."""
    agent, nap = make_agent(), f"1000.{next(_NAPS)}"
    task_id = _submit(client, agent, WITNESS, env={"DIR": str(tmp_path), "NAP": nap}, disconnect_timeout="1m")
    until(lambda: len(sleepers(nap)) == 2, "it runs, and its daemon")
    machine = [*agent.processes(), *sleepers(nap), *map(_parent, sleepers(nap))]
    asleep = [pid for pid in machine if pid not in (1, os.getpid())]
    for pid in asleep:
        os.kill(pid, signal.SIGSTOP)
    until(lambda: client.get_status(task_id).state != "RUNNING", "the server has given it up", seconds=120)
    for pid in asleep:
        os.kill(pid, signal.SIGCONT)
    assert client.wait(task_id, timeout=120).exit_code == 4
    _check_two_attempts(client, task_id, tmp_path, nap, first="LOST")


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _check_two_attempts(client: styx.Client, task_id: str, folder: Path, nap: str, *, first: str) -> None:
    attempts = sorted(client.get_task(task_id).attempts, key=lambda attempt: attempt.number)
    assert [attempt.outcome.kind for attempt in attempts if attempt.outcome] == [first, "EXITED"]
    assert (folder / "runs").read_text() == "1\n2\n"
    assert not (folder / "overlap").exists()
    assert sleepers(nap) == []


@needs_namespaces
@pytest.mark.parametrize("policy", [WhenFull.BLOCK, WhenFull.DROP])
def test_a_full_disk_stops_or_thins_output_and_nothing_else(
    stack: Stack, client: styx.Client, make_agent: MakeAgent, tmp_path: Path, policy: WhenFull
) -> None:
    agent = make_agent(f'mount -t tmpfs -o size={DISK_BYTES},mode=700 tmpfs "$AGENT_DIR"')
    assert agent.link is not None
    supervisor, disk = agent.supervisor(), Path(f"/proc/{agent.link.pid}/root{agent.data_dir}")
    record, size = tmp_path / "record", 2 * DISK_BYTES
    task_id = _submit(client, agent, _python(MUCH, SEED, size, record), logs=LogPolicy(when_full=policy))
    until(lambda: _size(record) > 0, "it writes")
    server = stack.pid_of("styx_server")
    os.kill(server, signal.SIGSTOP)
    try:
        until(lambda: _free(disk) < DISK_BYTES >> 4, "the disk is as full as output makes it")
        if policy is WhenFull.DROP:
            until(lambda: _size(record) == size >> 16, "it writes on to its end")
        else:
            assert _size(record) < size >> 16
    finally:
        os.kill(server, signal.SIGCONT)
    assert client.wait(task_id, timeout=120).exit_code == 0
    dice = Random(SEED)
    written = b"".join(dice.randbytes(1 << 16) for _ in range(size >> 16))
    chunks = list(client.logs(task_id, stream=LogStream.STDOUT, follow=True))
    gaps = [(gap.start_offset, gap.end_offset) for chunk in chunks for gap in chunk.gaps]
    assert all(chunk.data == written[chunk.offset : chunk.offset + len(chunk.data)] for chunk in chunks)
    assert sum(len(chunk.data) for chunk in chunks) + sum(end - start for start, end in gaps) == size
    assert bool(gaps) == (policy is WhenFull.DROP)
    assert (agent.supervisor(), agent.link.poll()) == (supervisor, None)


@needs_namespaces
def test_a_full_disk_keeps_no_agent_from_its_server(client: styx.Client, make_agent: MakeAgent) -> None:
    """Else it would stay full: what fills it is mostly output that only a server can take."""
    agent = make_agent(f'mount -t tmpfs -o size={DISK_BYTES},mode=700 tmpfs "$AGENT_DIR"')
    assert agent.link is not None
    disk = Path(f"/proc/{agent.link.pid}/root{agent.data_dir}")
    assert client.wait(_submit(client, agent, "echo before"), timeout=60).exit_code == 0
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    os.kill(agent.supervisor(), signal.SIGKILL)
    until(lambda: agent.sessions() > 1, "a session of the next supervisor")
    agent.link.send_signal(signal.SIGHUP)
    until(lambda: agent.sessions() > 2, "a session of the next link")
    filler.unlink()
    assert client.wait(_submit(client, agent, "echo after"), timeout=60).exit_code == 0


def _free(disk: Path) -> int:
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize


def test_a_flood_neither_stops_other_work_nor_fills_memory(
    stack: Stack, client: styx.Client, make_agent: MakeAgent
) -> None:
    """Twenty tasks write as quickly as they can, and nobody takes it for a while."""
    agent = make_agent()
    assert agent.link is not None
    policy = LogPolicy(spool_bytes=8 << 20)
    flood = [_submit(client, agent, "exec yes", logs=policy) for _ in range(20)]
    until(lambda: all(client.get_status(task_id).state == "RUNNING" for task_id in flood), "all run")
    server = stack.pid_of("styx_server")
    os.kill(server, signal.SIGSTOP)
    spools = agent.data_dir / "attempts"
    try:
        full = len(flood) * policy.spool_bytes
        until(lambda: sum(_size(path) for path in spools.glob("*/stdout.*")) >= full, "every spool is full")
        assert memory_of(agent.link.pid) < LINK_MEMORY_BYTES
    finally:
        os.kill(server, signal.SIGCONT)
    quick = _submit(client, agent, "echo through; exit 3")
    assert client.wait(quick, timeout=60).exit_code == 3
    client.cancel(*flood)
    assert {str(task.state) for task in client.wait_all(flood, timeout=120)} == {"CANCELLED"}
    assert memory_of(agent.link.pid) < LINK_MEMORY_BYTES
    for task_id in flood[:2]:
        output = _output(client, task_id)
        assert output == (b"y\n" * len(output))[: len(output)]
    assert [len(client.get_task(task_id).attempts) for task_id in flood] == [1] * len(flood)
