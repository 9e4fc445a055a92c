"""An upgrade while tasks run: the link is replaced, the supervisor stays until it holds nothing, neither is too new."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from styx_agent.supervisor import wire
from tests.support.agent_process import AgentProcess, feed, fifo_of
from tests.support.scripted_server import ScriptedServer, scripted_server
from tests.support.supervisor_driver import SupervisorDriver, boottime_micros, processes
from tests.support.until import soon, until

ROOT = Path(__file__).resolve().parents[2]
TRANSCRIPTS = Path(__file__).parent / "transcripts"
HOLDS = {"setup": "mkfifo fifo", "command": "echo out; echo err >&2; read line < fifo; echo more; exit 3"}


@pytest.fixture
async def served() -> AsyncIterator[tuple[ScriptedServer, int]]:
    async with scripted_server() as pair:
        yield pair


@asynccontextmanager
async def _agent(data_dir: Path, port: int, root: Path = ROOT) -> AsyncIterator[AgentProcess]:
    agent = AgentProcess(data_dir, port, root=root)
    agent.start()
    try:
        yield agent
    finally:
        await agent.close()


async def _until_held(server: ScriptedServer, agent: AgentProcess) -> tuple[int, Path]:
    """Starts a task that waits in the midst of its output; its fence, and where it waits."""
    await soon(lambda: bool(server.sessions), "a session")
    fence = server.assign(HOLDS["command"], setup=HOLDS["setup"])
    await soon(lambda: server.stdout(fence) == b"out\n" and server.running(fence), "its first output")
    return fence, fifo_of(agent)


async def test_a_hangup_starts_the_link_again_and_touches_no_task(
    served: tuple[ScriptedServer, int], data_dir: Path
) -> None:
    server, port = served
    async with _agent(data_dir, port) as agent:
        fence, fifo = await _until_held(server, agent)
        assert agent.process is not None
        for count in (2, 3):
            agent.process.send_signal(signal.SIGHUP)
            await soon(lambda count=count: len(server.sessions) == count, "a session of the next link")  # type: ignore[misc]
            await soon(lambda count=count: agent.log().count("session_opened") == count, "it is open")  # type: ignore[misc]
        assert agent.process.poll() is None
        assert not any(session.goodbye for session in server.sessions)
        assert {session.hello.supervisor_id for session in server.sessions} == {server.session.hello.supervisor_id}
        assert [(item.fence, item.start_acked) for item in server.session.hello.attempts] == [(fence, True)]
        feed(fifo, b"go\n")
        await soon(lambda: server.complete(fence), "end and output")
        assert (server.stdout(fence), server.attempts[fence].outcome.exit_code) == (b"out\nmore\n", 3)
        assert "supervisor_renewed" not in agent.log()


async def test_a_hangup_of_its_terminal_ends_the_link(served: tuple[ScriptedServer, int], data_dir: Path) -> None:
    server, port = served
    person, screen = pty.openpty()
    agent = AgentProcess(data_dir, port)
    agent.start(os.ttyname(screen))
    try:
        await soon(lambda: bool(server.sessions), "a session")
        assert await agent.stop(signal.SIGHUP) == -signal.SIGHUP
    finally:
        os.close(screen)
        os.close(person)
        await agent.close()


async def test_the_supervisor_is_replaced_when_it_holds_nothing(
    served: tuple[ScriptedServer, int], data_dir: Path, tmp_path: Path
) -> None:
    server, port = served
    installed = _install(tmp_path / "installed")
    async with _agent(data_dir, port, installed) as agent:
        fence, fifo = await _until_held(server, agent)
        with (installed / "styx_agent" / "supervisor" / "rules.py").open("a") as file:
            file.write("\n# what an upgrade changes\n")
        assert agent.process is not None
        agent.process.send_signal(signal.SIGHUP)
        await soon(lambda: len(server.sessions) == 2, "a session of the new link")
        first = server.sessions[0].hello.supervisor_id
        assert server.session.hello.supervisor_id == first
        feed(fifo, b"go\n")
        await soon(lambda: server.complete(fence), "end and output")
        assert (server.stdout(fence), server.attempts[fence].outcome.exit_code) == (b"out\nmore\n", 3)
        await soon(lambda: server.session.hello.supervisor_id != first, "a session with a new supervisor")
        after = server.assign("echo new; exit 5")
        await soon(lambda: server.complete(after), "life goes on")
        assert agent.log().count("supervisor_renewed") == 1
        await soon(lambda: len(_supervisors(data_dir)) == 1, "one supervisor is left")


async def test_a_newer_link_works_with_an_older_supervisor(served: tuple[ScriptedServer, int], data_dir: Path) -> None:
    server, port = served
    async with _old_supervisor(data_dir) as old, _agent(data_dir, port) as agent:
        await soon(lambda: server.stdout(101) == b"out\n" and server.running(101), "what it holds")
        await soon(lambda: "recorded" in old.heard and "free" in old.heard, "what an old supervisor needs to hear")
        assert set(old.heard) <= {line["op"] for line in _transcript("link_v1")}
        assert "supervisor_renewed" not in agent.log()
        old.end()
        await soon(lambda: server.complete(101), "end and output")
        assert (server.stderr(101), server.attempts[101].outcome.exit_code) == (b"err\n", 7)
        await soon(lambda: old.heard[-1:] == ["shutdown"], "it is asked to make room")
        await soon(lambda: server.session.hello.supervisor_id != old.supervisor_id, "a session with a new one")
        after = server.assign("exit 5")
        await soon(lambda: server.complete(after), "life goes on")


def test_a_newer_supervisor_works_with_an_older_link(plain_supervisor: SupervisorDriver) -> None:
    _talk_as_a_link(plain_supervisor, _transcript("link_v1"))


def test_a_supervisor_bears_words_of_a_later_link(plain_supervisor: SupervisorDriver) -> None:
    """Unknown words before and after each known one, unknown fields in each, and a number that is too large."""
    strange = {"op": "sing", "song": ["la"] * 3}
    said = []
    for line in _transcript("link_v1"):
        later = line | {"volume": {"of": 11}} | ({"version": 99} if line["op"] == "hello" else {})
        said += [strange, later] if said else [later]
    _talk_as_a_link(plain_supervisor, said)


def _talk_as_a_link(driver: SupervisorDriver, lines: list[dict[str, Any]]) -> None:
    """Says the lines, each when its time has come; checks that the supervisor does what it is told."""
    driver.launch(extend=False)
    for line in lines:
        changes: dict[str, Any] = {}
        match line["op"]:
            case "extend":
                changes = {"sent_micros": boottime_micros()}
            case "start":
                order = line
            case "recorded":
                driver.written(101, 4)
            case "stop":
                # Another task for this order, because the first is to end by itself.
                driver.say(order | {"fence": 102, "setup": "", "argv": ["/bin/sleep", "1000"]})
                driver.running(102)
                changes = {"fence": 102}
            case "forget":
                assert driver.outcome(102)["kind"] == "CANCELLED"
                assert driver.outcome(101)["kind"] == "PREEMPTED"
            case "shutdown":
                until(lambda: not (driver.directory / "attempts" / "101").exists(), "it has forgotten")
        driver.say(line | changes)
    assert driver.streams[101, "stdout"]["freed"] == 4
    assert driver.process is not None
    assert driver.process.wait(20) == 0


class _OldSupervisor:
    """Speaks as supervisors of version 1 did, from the transcript; runs nothing."""

    def __init__(self, data_dir: Path) -> None:
        welcome, _, running, *grown, self._end = _transcript("supervisor_v1")
        self._welcome = welcome | {"attempts": [running["attempt"] | {"recorded": False, "streams": grown}]}
        home = data_dir / "attempts" / "101"
        home.mkdir(parents=True)
        (home / "stdout.0").write_bytes(b"out\n")
        (home / "stderr.0").write_bytes(b"err\n")
        self._data_dir = data_dir
        self._writer: asyncio.StreamWriter | None = None
        self.supervisor_id = welcome["supervisor_id"]
        self.heard: list[str] = []
        self.server: asyncio.Server | None = None

    def end(self) -> None:
        """The task ends."""
        self._say(self._end)

    async def on_link(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        frames = wire.FrameReader()
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                for message in frames.feed(data):
                    self._hear(message)
        writer.close()
        await writer.wait_closed()

    def _hear(self, message: dict[str, Any]) -> None:
        self.heard.append(message["op"])
        match message["op"]:
            case "hello":
                self._say(self._welcome)
            case "shutdown":
                self.close()

    def close(self) -> None:
        """It ends."""
        if self.server is not None and self._writer is not None:
            self.server.close()
            self._writer.close()
            (self._data_dir / wire.SOCKET_NAME).unlink(missing_ok=True)

    def _say(self, *messages: dict[str, Any]) -> None:
        assert self._writer is not None
        self._writer.write(wire.encode(list(messages)))


@asynccontextmanager
async def _old_supervisor(data_dir: Path) -> AsyncIterator[_OldSupervisor]:
    old = _OldSupervisor(data_dir)
    with wire.socket_address(str(data_dir)) as address:
        old.server = await asyncio.start_unix_server(old.on_link, address)
    try:
        yield old
    finally:
        old.close()


def _transcript(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (TRANSCRIPTS / f"{name}.jsonl").read_text().splitlines()]


def _install(target: Path) -> Path:
    """A copy of the programs, to be upgraded in place."""
    for package in ("styx", "styx_agent"):
        shutil.copytree(ROOT / package, target / package, ignore=shutil.ignore_patterns("__pycache__"))
    return target


def _supervisors(data_dir: Path) -> list[int]:
    return [pid for pid in processes(f"--data-dir {data_dir}") if "supervisor.main" in _command(pid)]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""
