"""An agent whose machine is taken back: real processes, a scripted server, a file that says so."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from styx.agent.v1 import agent_service_pb2 as wire
from styx.v1 import tasks_pb2
from styx_agent.eviction import Eviction
from styx_agent.ledger import Ledger
from styx_agent.notices.notice import notice_in
from tests.support.agent_process import AgentProcess
from tests.support.metadata_service import metadata_service
from tests.support.scripted_server import ScriptedServer, listening, scripted_server
from tests.support.supervisor_driver import SECOND, SupervisorDriver, boottime_micros, sleepers
from tests.support.until import soon

KIND = tasks_pb2.Outcome.Kind
CHECKPOINTS = "trap 'echo saved; exit 0' TERM; echo up; sleep {} & wait"
STUBBORN = "trap '' TERM; echo up; while :; do sleep {}; done"


def give_notice(path: Path, seconds: float) -> None:
    """As the fake cloud writes it: all at once."""
    path.with_suffix(".new").write_text(json.dumps({"deadline": time.time() + seconds}))
    path.with_suffix(".new").rename(path)


def is_noticed(server: ScriptedServer) -> bool:
    return any(beat.HasField("preemption_notice") for beat in server.session.beats)


@pytest.fixture
async def served() -> AsyncIterator[tuple[ScriptedServer, int]]:
    async with scripted_server() as pair:
        yield pair


@pytest.fixture
def server(served: tuple[ScriptedServer, int]) -> ScriptedServer:
    return served[0]


@pytest.fixture
def notice(tmp_path: Path) -> Path:
    return tmp_path / "notice.json"


@pytest.fixture
async def agent(served: tuple[ScriptedServer, int], data_dir: Path, notice: Path) -> AsyncIterator[AgentProcess]:
    process = AgentProcess(data_dir, served[1], flags=["--preemption-notice", str(notice), "--cpus", "4"])
    process.start()
    try:
        await soon(lambda: bool(served[0].sessions), "a session")
        yield process
    finally:
        await process.close()


@pytest.mark.usefixtures("agent")
async def test_a_notice_stops_what_runs_and_is_told_at_once(server: ScriptedServer, notice: Path, tag: str) -> None:
    server.beat_seconds = 600
    server.session.cut()
    await soon(lambda: len(server.sessions) == 2 and len(server.session.beats) == 1, "a session with rare beats")
    fence = server.assign(CHECKPOINTS.format(tag))
    await soon(lambda: len(sleepers(tag)) == 1, "it runs")
    give_notice(notice, 30)
    await soon(lambda: server.complete(fence), "its end and its output")
    assert server.attempts[fence].outcome.kind == KIND.Value("PREEMPTED")
    assert server.attempts[fence].outcome.exit_code == 0
    assert server.stdout(fence) == b"up\nsaved\n"
    await soon(lambda: len(server.session.beats) == 3, "a beat of its own, and one when nothing is owed any more")
    beat = server.session.beats[-1]
    assert beat.draining
    assert [beat.owes for beat in server.session.beats] == [False, True, False]
    assert 20 < server.session.beats[1].preemption_notice.time_left.seconds <= 30
    assert beat.preemption_notice.source == str(notice)


@pytest.mark.usefixtures("agent")
async def test_a_notice_gives_all_the_time_there_is(server: ScriptedServer, notice: Path, tag: str) -> None:
    quick = server.assign(STUBBORN.format(tag), stop_grace={"seconds": 1})
    patient = server.assign(STUBBORN.format(tag), stop_grace={"seconds": 600})
    await soon(lambda: len(sleepers(tag)) == 2, "both run")
    before = boottime_micros()
    give_notice(notice, 4)
    await soon(lambda: is_noticed(server), "the notice")
    # The server's own order to stop names no time, and takes none away.
    for fence in (quick, patient):
        stop = wire.StopAttempt(fence=fence, cause=wire.StopAttempt.PREEMPT)
        server.session.send(stop=wire.Stop(attempts=[stop]))
    await soon(lambda: server.ended(quick) and server.ended(patient), "both have ended")
    assert boottime_micros() - before >= 2.5 * SECOND
    assert [server.attempts[fence].outcome.kind for fence in (quick, patient)] == [KIND.Value("PREEMPTED")] * 2
    assert sleepers(tag) == []


async def test_without_a_server_everything_is_stopped_all_the_same(data_dir: Path, notice: Path, tag: str) -> None:
    server = ScriptedServer()
    async with listening(server) as port:
        agent = AgentProcess(data_dir, port, flags=["--preemption-notice", str(notice)])
        agent.start()
        await soon(lambda: bool(server.sessions), "a session")
        fence = server.assign(CHECKPOINTS.format(tag))
        await soon(lambda: server.running(fence) and len(sleepers(tag)) == 1, "its start")
    try:
        await soon(lambda: "session_lost" in agent.log(), "the server is gone")
        give_notice(notice, 60)
        await soon(lambda: sleepers(tag) == [], "it has stopped")
        assert not server.ended(fence)
        async with listening(server, port):
            await soon(lambda: server.complete(fence), "its end and its output, when there is a server again")
            assert server.session.hello.draining
            await soon(lambda: bool(server.session.beats), "the first beat")
            assert server.session.beats[0].HasField("preemption_notice")
            assert server.attempts[fence].outcome.kind == KIND.Value("PREEMPTED")
            assert server.stdout(fence) == b"up\nsaved\n"
    finally:
        await agent.close()


@pytest.mark.usefixtures("agent")
async def test_what_is_assigned_after_the_notice_never_begins(
    server: ScriptedServer, notice: Path, tmp_path: Path
) -> None:
    give_notice(notice, 60)
    await soon(lambda: is_noticed(server), "the notice")
    fence = server.assign(f"touch {tmp_path}/ran")
    await soon(lambda: server.ended(fence), "its end")
    assert server.attempts[fence].outcome.kind == KIND.Value("PREEMPTED")
    assert not server.attempts[fence].HasField("started_ago")
    assert not (tmp_path / "ran").exists()


async def test_the_next_link_hears_of_it_again(
    server: ScriptedServer, agent: AgentProcess, notice: Path, tag: str
) -> None:
    fence = server.assign(STUBBORN.format(tag))
    await soon(lambda: server.running(fence), "its start")
    give_notice(notice, 60)
    await soon(lambda: is_noticed(server), "the notice")
    agent.kill()
    agent.start()
    await soon(lambda: len(server.sessions) == 2, "a new session")
    await soon(lambda: bool(server.session.beats) and server.session.beats[-1].draining, "it says so again")
    assert server.session.beats[-1].HasField("preemption_notice")
    assert not server.ended(fence)
    assert len(sleepers(tag)) == 1, "and it still has its time"


async def test_where_sigterm_is_the_notice_the_agent_sees_its_tasks_off(
    served: tuple[ScriptedServer, int], data_dir: Path, tag: str
) -> None:
    server, port = served
    agent = AgentProcess(data_dir, port, flags=["--preemption-notice", "term:30", "--on-exit", "stop"])
    agent.start()
    try:
        await soon(lambda: bool(server.sessions), "a session")
        fence = server.assign(CHECKPOINTS.format(tag))
        await soon(lambda: len(sleepers(tag)) == 1, "it runs")
        assert await agent.stop() == 0
        assert server.complete(fence)
        assert server.stdout(fence) == b"up\nsaved\n"
        assert any(beat.HasField("preemption_notice") for beat in server.session.beats)
        assert agent.supervisors() == []
    finally:
        await agent.close()


async def test_a_machine_that_shuts_down_is_asked_why_before_the_agent_leaves(
    served: tuple[ScriptedServer, int], data_dir: Path, tag: str
) -> None:
    server, port = served
    with metadata_service() as metadata:
        flags = ["--preemption-notice", f"aws:{metadata.url}", "--on-exit", "keep"]
        agent = AgentProcess(data_dir, port, flags=flags)
        agent.start()
        try:
            await soon(lambda: bool(server.sessions), "a session")
            fence = server.assign(CHECKPOINTS.format(tag))
            await soon(lambda: len(sleepers(tag)) == 1, "it runs")
            metadata.action = {"action": "terminate", "time": "2000-01-01T00:00:00Z"}
            assert await agent.stop() == 0
            assert server.complete(fence)
            assert server.attempts[fence].outcome.kind == KIND.Value("PREEMPTED")
        finally:
            await agent.close()


def test_a_supervisor_evicts_with_the_time_that_is_left(supervisor: SupervisorDriver, tag: str) -> None:
    fence = supervisor.start(STUBBORN.format(tag), grace_micros=0)
    supervisor.written(fence, 3)
    now = boottime_micros()
    supervisor.say({"op": "notice", "kill_micros": now + 2 * SECOND, "over_micros": now + 60 * SECOND})
    supervisor.stop(fence, "PREEMPT")
    late = supervisor.start("echo never")
    assert supervisor.outcome(late)["kind"] == "PREEMPTED"
    assert supervisor.ended(late)["started_micros"] is None
    assert supervisor.outcome(fence)["kind"] == "PREEMPTED"
    assert boottime_micros() >= now + 2 * SECOND
    assert sleepers(tag) == []


def test_a_stop_that_names_its_time_counts_under_a_notice(supervisor: SupervisorDriver, tag: str) -> None:
    fence = supervisor.start(STUBBORN.format(tag))
    supervisor.written(fence, 3)
    now = boottime_micros()
    supervisor.say({"op": "notice", "kill_micros": now + 600 * SECOND, "over_micros": now + 660 * SECOND})
    supervisor.stop(fence, "CANCEL", 0)
    assert supervisor.outcome(fence)["kind"] == "PREEMPTED"


def test_a_machine_that_stays_takes_work_again(supervisor: SupervisorDriver) -> None:
    now = boottime_micros()
    supervisor.say({"op": "notice", "kill_micros": now - 2, "over_micros": now - 1})
    fence = supervisor.start("exit 3")
    assert supervisor.outcome(fence)["exit_code"] == 3


async def test_an_older_supervisor_is_told_in_its_own_words() -> None:
    said: list[dict[str, object]] = []
    ledger = Ledger(said.append)
    Eviction(None, ledger).take(notice_in(60, "test", boottime_micros()))
    (order,) = said
    assert (order["op"], order["cause"]) == ("stop_all", "PREEMPT")
    ledger.heeds_notices = True
    ledger.notice = None
    Eviction(None, ledger).take(notice_in(60, "test", boottime_micros()))
    assert said[1]["op"] == "notice"


async def test_of_two_notices_the_earlier_counts() -> None:
    said: list[dict[str, object]] = []
    ledger = Ledger(said.append)
    eviction = Eviction(None, ledger)
    now = boottime_micros()
    for seconds in (60, 90, 30):
        eviction.take(notice_in(seconds, f"in {seconds}", now))
    assert ledger.notice is not None
    assert (ledger.notice.source, len(said)) == ("in 30", 2)


async def test_a_machine_that_is_not_taken_after_all_is_in_service_again() -> None:
    leaves: list[bool] = []
    ledger = Ledger(lambda _message: None)
    eviction = Eviction(None, ledger)
    eviction.start(leaves.append)
    eviction.take(notice_in(-59.9, "test", boottime_micros()))
    assert leaves == [True]
    await soon(lambda: leaves == [True, False], "it is in service again")
    assert ledger.notice is None
