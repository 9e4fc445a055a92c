"""The link as a real process against a scripted server: joining, sessions, orders, reports."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from styx.agent.v1 import agent_service_pb2 as wire
from styx.v1 import tasks_pb2
from styx_agent import clock
from tests.support.agent_process import AgentProcess, feed, fifo_of
from tests.support.scripted_server import ScriptedServer, listening, scripted_server
from tests.support.supervisor_driver import sleepers
from tests.support.until import soon

KIND = tasks_pb2.Outcome.Kind


@pytest.fixture
async def served() -> AsyncIterator[tuple[ScriptedServer, int]]:
    async with scripted_server() as pair:
        yield pair


@pytest.fixture
def server(served: tuple[ScriptedServer, int]) -> ScriptedServer:
    return served[0]


@pytest.fixture
async def agent(served: tuple[ScriptedServer, int], data_dir: Path) -> AsyncIterator[AgentProcess]:
    """An agent with an open session."""
    process = AgentProcess(data_dir, served[1], flags=["--label", "zone=a", "--gpus", "A100:2", "--cpus", "3"])
    process.start()
    try:
        await soon(lambda: bool(served[0].sessions), "a session")
        yield process
    finally:
        await process.close()


async def test_hello_says_who_and_what(server: ScriptedServer, agent: AgentProcess) -> None:
    hello = server.session.hello
    assert hello.agent_id == 1
    assert hello.boot_id == clock.boot_id()
    assert (hello.capacity.cpus, [gpu.name for gpu in hello.capacity.gpus]) == (3, ["A100", "A100"])
    assert [gpu.index for gpu in hello.capacity.gpus] == [0, 1]
    assert hello.capacity.memory_bytes > 0
    assert dict(hello.labels) == {"zone": "a"}
    assert wire.FEATURE_LOG_ZSTD in hello.features
    assert hello.isolation.startswith(("cgroup", "process group"))
    assert (hello.protocol, hello.last_epoch, list(hello.attempts)) == (1, 0, [])
    identity = agent.data_dir / "identity.json"
    assert identity.stat().st_mode & 0o777 == 0o600
    assert json.loads(identity.read_text())["deployment_id"] == server.deployment_id


async def test_a_task_runs_and_everything_is_forgotten(server: ScriptedServer, agent: AgentProcess) -> None:
    fence = server.assign("echo out; echo err >&2; exit 7")
    await soon(lambda: server.complete(fence), "end and output")
    report = server.attempts[fence]
    assert (report.outcome.kind, report.outcome.exit_code) == (KIND.Value("EXITED"), 7)
    assert report.HasField("started_ago")
    assert report.HasField("ended_ago")
    assert (server.stdout(fence), server.stderr(fence)) == (b"out\n", b"err\n")
    await soon(lambda: not os.listdir(agent.data_dir / "attempts"), "its files are gone")


@pytest.mark.usefixtures("agent")
async def test_a_task_sees_its_own_environment(server: ScriptedServer) -> None:
    spec = tasks_pb2.TaskSpec(argv=["/usr/bin/env"], env={"MINE": "1", "STYX_FENCE": "0"}).SerializeToString()
    server.assign_raw(
        wire.Assignment(fence=900, task_id=42, attempt=3, spec=spec, gpu_indexes=[1, 0], namespace="team")
    )
    await soon(lambda: server.complete(900), "end and output")
    found = dict(line.split("=", 1) for line in server.stdout(900).decode().splitlines())
    assert {name: found.pop(name) for name in list(found) if name.startswith(("STYX_", "CUDA", "MINE"))} == {
        "STYX_TASK_ID": "t42",
        "STYX_ATTEMPT": "3",
        "STYX_FENCE": "900",
        "STYX_NAMESPACE": "team",
        "STYX_AGENT_ID": "a1",
        "CUDA_VISIBLE_DEVICES": "1,0",
        "MINE": "1",
    }
    assert set(found) == {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG"}


async def test_a_thousand_tasks_end_exactly_once(server: ScriptedServer, agent: AgentProcess) -> None:
    fences = range(2000, 2400)
    nothing = tasks_pb2.Resources(cpus=0)  # so that there is room for all of them at once
    spec = tasks_pb2.TaskSpec(command="echo $STYX_FENCE", resources=nothing).SerializeToString()
    assignments = [wire.Assignment(fence=fence, task_id=fence, attempt=1, spec=spec) for fence in fences]
    server.session.send(assign=wire.Assign(assignments=assignments))
    await soon(lambda: all(server.complete(fence) for fence in fences), "all of them", seconds=60)
    ends = [report.fence for report in server.history if report.state == tasks_pb2.Attempt.ENDED]
    assert sorted(ends) == list(fences)
    assert all(server.stdout(fence) == f"{fence}\n".encode() for fence in fences)
    await soon(lambda: not os.listdir(agent.data_dir / "attempts"), "their files are gone")


async def test_an_assignment_that_comes_twice_runs_once(server: ScriptedServer, agent: AgentProcess) -> None:
    marker = agent.data_dir / "count"
    spec = tasks_pb2.TaskSpec(command=f"echo x >> {marker}").SerializeToString()
    assignment = wire.Assignment(fence=77, task_id=7, attempt=1, spec=spec)
    server.assign_raw(assignment)
    server.assign_raw(assignment)
    await soon(lambda: server.ended(77), "its end")
    await soon(lambda: not os.listdir(agent.data_dir / "attempts"), "its files are gone")
    server.assign_raw(assignment)
    last = server.assign("true")
    await soon(lambda: server.ended(last), "a later one")
    assert marker.read_text() == "x\n"


@pytest.mark.usefixtures("agent")
async def test_a_stop_is_carried_out(server: ScriptedServer, tag: str) -> None:
    fence = server.assign(f"sleep {tag} & sleep {tag}")
    await soon(lambda: server.running(fence), "its start")
    stop = wire.StopAttempt(fence=fence, cause=wire.StopAttempt.CANCEL)
    server.session.send(stop=wire.Stop(attempts=[stop]))
    await soon(lambda: server.ended(fence), "its end")
    assert server.attempts[fence].outcome.kind == KIND.Value("CANCELLED")
    assert sleepers(tag) == []


@pytest.mark.usefixtures("agent")
async def test_a_stop_may_come_with_a_beat(server: ScriptedServer, tag: str) -> None:
    fence = server.assign(f"trap '' TERM; while :; do sleep {tag}; done")
    await soon(lambda: server.running(fence), "its start")
    server.ack_beats = False
    await soon(lambda: bool(server.session.beats), "a beat")
    stop = wire.StopAttempt(fence=fence, cause=wire.StopAttempt.PREEMPT, grace=Duration())
    server.session.send(heartbeat_ack=wire.HeartbeatAck(seq=server.session.beats[-1].seq, stops=[stop]))
    await soon(lambda: server.ended(fence), "its end")
    assert server.attempts[fence].outcome.kind == KIND.Value("PREEMPTED")


@pytest.mark.usefixtures("agent")
async def test_beats_list_what_lives(server: ScriptedServer, tag: str) -> None:
    fence = server.assign(f"sleep {tag}")
    await soon(lambda: server.running(fence), "its start")
    count = len(server.session.beats)
    await soon(lambda: len(server.session.beats) > count + 1, "beats")
    assert list(server.session.beats[-1].live_fences) == [fence]
    assert [beat.seq for beat in server.session.beats] == list(range(1, len(server.session.beats) + 1))


@pytest.mark.usefixtures("agent")
async def test_what_the_server_does_not_know_is_killed_and_forgotten(server: ScriptedServer, tag: str) -> None:
    fence = server.assign(f"trap '' TERM; while :; do sleep {tag}; done")
    await soon(lambda: bool(sleepers(tag)), "its start")
    server.session.send(heartbeat_ack=wire.HeartbeatAck(seq=0, unknown_fences=[fence]))
    await soon(lambda: not sleepers(tag), "it is gone")
    assert not server.ended(fence)


@pytest.mark.usefixtures("agent")
async def test_a_refused_report_kills_too(server: ScriptedServer, tag: str) -> None:
    server.ack_reports = False
    fence = server.assign(f"sleep {tag}")
    await soon(lambda: bool(server.session.reports), "a report")
    server.session.send(report_ack=wire.ReportAck(seq=1, refused_fences=[fence]))
    await soon(lambda: not sleepers(tag), "it is gone")


@pytest.mark.usefixtures("agent")
async def test_a_start_report_without_an_ack_lets_the_attempt_die_early(server: ScriptedServer, tag: str) -> None:
    server.window_seconds = 1.5
    server.ack_reports = server.ack_beats = False
    server.session.send(reconnect=wire.Reconnect(within=Duration()))
    await soon(lambda: len(server.sessions) == 2, "a new session with a short window")
    fence = server.assign(f"sleep {tag}")
    await soon(lambda: len(sleepers(tag)) == 1, "its start")
    await soon(lambda: sleepers(tag) == [], "its end")
    server.ack_reports = True
    server.session.cut()
    await soon(lambda: server.ended(fence), "the news of it")
    assert server.attempts[fence].outcome.kind == KIND.Value("LOST")


@pytest.mark.usefixtures("agent")
async def test_an_assignment_after_the_window_is_rejected(server: ScriptedServer) -> None:
    server.window_seconds = 0.05
    server.ack_beats = False
    server.session.send(reconnect=wire.Reconnect(within=Duration()))
    await soon(lambda: len(server.sessions) == 2 and len(server.session.beats) >= 2, "time has passed")
    fence = server.assign("echo never")
    await soon(lambda: server.ended(fence), "its refusal")
    assert server.attempts[fence].outcome.kind == KIND.Value("REJECTED")
    assert not server.attempts[fence].HasField("started_ago")


async def test_a_lost_connection_changes_nothing(server: ScriptedServer, agent: AgentProcess, tag: str) -> None:
    fence = server.assign("echo a; read line < fifo; echo b; exit 3", setup="mkfifo fifo")
    await soon(lambda: server.stdout(fence) == b"a\n", "its output")
    fifo = fifo_of(agent)
    server.session.cut()
    await soon(lambda: len(server.sessions) == 2, "a new session")
    held = server.session.hello.attempts
    assert [(item.fence, item.state, item.start_acked) for item in held] == [(fence, tasks_pb2.Attempt.RUNNING, True)]
    assert server.session.hello.last_epoch == server.sessions[0].epoch
    feed(fifo, b"go\n")
    await soon(lambda: server.complete(fence), "end and output")
    assert server.stdout(fence) == b"a\nb\n"
    assert server.attempts[fence].outcome.exit_code == 3


async def test_what_ends_while_the_server_is_away_arrives_later(
    served: tuple[ScriptedServer, int], agent: AgentProcess
) -> None:
    server, _ = served
    server.ack_reports = server.ack_logs = False
    fence = server.assign("echo out; exit 3")
    await soon(lambda: bool(server.session.reports), "a report that is not acked")
    server.session.cut()
    await soon(lambda: len(server.sessions) == 2, "a new session")
    report = server.session.hello.attempts[0].unacked_report
    assert (report.outcome.exit_code, report.logs[0].total_bytes) == (3, 4)
    server.ack_reports = server.ack_logs = True
    server.session.cut()
    await soon(lambda: server.complete(fence), "end and output")
    await soon(lambda: not os.listdir(agent.data_dir / "attempts"), "its files are gone")


async def test_a_server_that_restarts_gets_its_agent_back(data_dir: Path, tag: str) -> None:
    service = ScriptedServer()
    async with listening(service) as port:
        agent = AgentProcess(data_dir, port)
        agent.start()
        await soon(lambda: bool(service.sessions), "a session")
        fence = service.assign(f"sleep {tag} & wait; exit 6")
        await soon(lambda: service.running(fence), "its start")
    try:
        async with listening(service, port):
            await soon(lambda: len(service.sessions) == 2, "a session after the restart")
            (sleeper,) = sleepers(tag)
            os.kill(sleeper, signal.SIGKILL)
            await soon(lambda: service.complete(fence), "its end")
            assert service.attempts[fence].outcome.exit_code == 6
    finally:
        await agent.close()


async def test_a_killed_link_finds_its_tasks_again(server: ScriptedServer, agent: AgentProcess) -> None:
    fence = server.assign("echo a; read line < fifo; echo b; exit 3", setup="mkfifo fifo")
    over = server.assign("echo short; exit 4")
    await soon(lambda: server.stdout(fence) == b"a\n" and server.complete(over), "output")
    agent.kill()
    feed(fifo_of(agent), b"go\n")
    agent.start()
    await soon(lambda: server.complete(fence), "end and output")
    assert server.stdout(fence) == b"a\nb\n"
    assert server.attempts[fence].outcome.exit_code == 3
    assert len(server.agents) == 1
    assert server.sessions[1].hello.supervisor_id == server.sessions[0].hello.supervisor_id
    assert server.sessions[1].epoch > server.sessions[0].epoch
    await soon(lambda: not os.listdir(agent.data_dir / "attempts"), "its files are gone")


async def test_a_killed_supervisor_is_said_and_replaced(server: ScriptedServer, agent: AgentProcess, tag: str) -> None:
    fence = server.assign(f"echo up; sleep {tag}")
    await soon(lambda: server.stdout(fence) == b"up\n", "its output")
    (supervisor,) = [pid for pid in agent.supervisors() if str(pid) in server.session.hello.supervisor_id]
    os.kill(supervisor, signal.SIGKILL)
    await soon(lambda: server.ended(fence), "its end")
    assert server.attempts[fence].outcome.kind == KIND.Value("SUPERVISOR_LOST")
    assert sleepers(tag) == []
    await soon(lambda: server.session.hello.supervisor_id != server.sessions[0].hello.supervisor_id, "a new hello")
    after = server.assign("exit 5")
    await soon(lambda: server.ended(after), "life goes on")


@pytest.mark.usefixtures("agent")
async def test_verdicts_are_obeyed(server: ScriptedServer, tag: str) -> None:
    stopped, forgotten = server.assign(f"sleep {tag}"), server.assign(f"sleep {tag}")
    await soon(lambda: server.running(stopped) and server.running(forgotten), "both run")
    server.verdicts = lambda _hello: [
        wire.Verdict(fence=stopped, action=wire.Verdict.STOP, stop=wire.StopAttempt(fence=stopped)),
        wire.Verdict(fence=forgotten, action=wire.Verdict.FORGET),
    ]
    server.session.cut()
    await soon(lambda: server.ended(stopped), "the end of one")
    await soon(lambda: sleepers(tag) == [], "both are gone")
    assert server.attempts[stopped].outcome.kind == KIND.Value("CANCELLED")
    assert not server.ended(forgotten)


async def test_another_deployment_is_left_alone(server: ScriptedServer, agent: AgentProcess) -> None:
    server.deployment_id = "somebody-else"
    server.session.cut()
    assert await agent.exit_code() == 2
    assert "somebody-else" in agent.log()


@pytest.mark.parametrize("on_exit", ["keep", "stop"])
async def test_sigterm_ends_the_link_politely(
    served: tuple[ScriptedServer, int], data_dir: Path, tag: str, on_exit: str
) -> None:
    server, port = served
    agent = AgentProcess(data_dir, port, flags=["--on-exit", on_exit])
    agent.start()
    try:
        await soon(lambda: bool(server.sessions), "a session")
        fence = server.assign(f"trap 'echo bye; exit 9' TERM; echo up; sleep {tag} & wait")
        await soon(lambda: server.running(fence) and len(sleepers(tag)) == 1, "its start")
        assert await agent.stop() == 0
        await soon(lambda: server.sessions[0].goodbye, "Goodbye")
        if on_exit == "stop":
            assert server.attempts[fence].outcome.kind == KIND.Value("PREEMPTED")
            assert server.attempts[fence].outcome.exit_code == 9
            assert server.complete(fence)
            assert server.stdout(fence) == b"up\nbye\n"
            assert agent.supervisors() == []
            assert server.sessions[0].beats[-1].draining
        else:
            assert len(sleepers(tag)) == 1
            assert len(agent.supervisors()) >= 1
    finally:
        await agent.close()
    assert sleepers(tag) == []


async def test_an_agent_that_holds_nothing_leaves_nothing(server: ScriptedServer, agent: AgentProcess) -> None:
    assert await agent.stop(signal.SIGINT) == 0
    assert agent.supervisors() == []


async def test_a_second_agent_in_the_same_directory_is_refused(
    served: tuple[ScriptedServer, int], agent: AgentProcess
) -> None:
    second = AgentProcess(agent.data_dir, served[1])
    second.start()
    assert await second.exit_code() == 1
    assert "another agent uses the data directory" in agent.log()


async def test_a_wrong_join_token_is_final(served: tuple[ScriptedServer, int], data_dir: Path) -> None:
    agent = AgentProcess(data_dir, served[1], token="styx_join_1_wrong")
    agent.start()
    try:
        assert await agent.exit_code() == 2
        assert "refuses the join token" in agent.log()
    finally:
        await agent.close()


async def test_a_server_in_trouble_is_asked_again(served: tuple[ScriptedServer, int], data_dir: Path) -> None:
    server, port = served
    server.join_status = grpc.StatusCode.UNAVAILABLE
    agent = AgentProcess(data_dir, port)
    agent.start()
    try:
        await soon(lambda: "session_lost" in agent.log(), "a first try")
        server.join_status = None
        await soon(lambda: bool(server.sessions), "a session")
    finally:
        await agent.close()


async def test_an_agent_that_was_removed_stops_everything_says_so_and_ends(
    server: ScriptedServer, agent: AgentProcess
) -> None:
    fence = server.assign("exec sleep 4711.5")
    await soon(lambda: server.running(fence), "the task runs")
    server.has_removed_agents = True
    server.session.cut()
    assert await agent.exit_code() == 3
    assert sleepers("4711.5") == []
    assert agent.supervisors() == []
    assert "styx-agent: agent a1 was removed" in agent.log()


async def test_an_agent_that_was_removed_while_it_was_away_is_told_when_it_comes_back(
    server: ScriptedServer, agent: AgentProcess
) -> None:
    fence = server.assign("exec sleep 4712.5")
    await soon(lambda: server.running(fence), "the task runs")
    agent.kill()
    server.has_removed_agents = True
    agent.start()
    assert await agent.exit_code() == 3
    assert sleepers("4712.5") == []
    assert agent.supervisors() == []
