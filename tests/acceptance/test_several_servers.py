"""Three servers on one database, as `styx up --replicas 3` starts them: any of them may go, and nobody notices."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import styx
from tests.support.stack import LONG_SECONDS, Stack, running_stack
from tests.support.until import until

SERVERS = (1, 2, 3)
AGENTS = (1, 2)
COUNT = """
i=0; while [ $i -lt 40 ]; do echo line $i; i=$((i+1)); sleep 0.05; done
while [ ! -e "$GO" ]; do sleep 0.05; done
exit 5
"""
LINES = "".join(f"line {number}\n" for number in range(40)).encode()


class SeveralServers(Stack):
    """A stack of which one can ask who is who."""

    def server_pid(self, number: int) -> int:
        """The process of a server that serves; 0 while there is none."""
        place = self.folder if number == 1 else self.folder / "replicas" / str(number)
        try:
            pid = int(json.loads((place / "endpoint.json").read_text())["pid"])
        except (OSError, ValueError):
            return 0
        return pid if "-m styx_server " in self.processes().get(pid, "") else 0

    def leader(self) -> int:
        """The number of the server that leads the scheduler."""
        taken = [
            (event["term"], number)
            for number in SERVERS
            for event in self.events(_log_name(number), "lead_taken")
            if event["role"] == "scheduler"
        ]
        return max(taken)[1]

    def servers_of_agents(self) -> dict[int, int]:
        """For each agent the number of the server that opened its latest session."""
        replicas = {
            event["replica"]: number for number in SERVERS for event in self.events(_log_name(number), "server_ready")
        }
        opened = {number: self.events(f"agent-{number}", "session_opened") for number in AGENTS}
        return {number: replicas[events[-1]["replica_id"]] for number, events in opened.items()}

    def events(self, log: str, name: str) -> list[dict[str, Any]]:
        """What a program logged under this name."""
        lines = (self.folder / "logs" / f"{log}.log").read_text().splitlines()
        events = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
        return [event for event in events if event["event"] == name]

    def sessions(self) -> dict[int, int]:
        """How many sessions each agent had so far."""
        return {number: len(self.events(f"agent-{number}", "session_opened")) for number in AGENTS}

    def until_all_serve(self) -> None:
        """Waits until every server is there."""
        until(lambda: all(self.server_pid(number) for number in SERVERS), "all servers serve", seconds=LONG_SECONDS)


@pytest.fixture(scope="module")
def several() -> Iterator[SeveralServers]:
    """Three servers and two agents, which the tests of this module kill by turns."""
    with (
        tempfile.TemporaryDirectory(prefix="styx-several-") as folder,
        running_stack(Path(folder) / "data", "--replicas", "3", "--agents", "2"),
    ):
        yield SeveralServers(Path(folder) / "data")


def test_each_server_is_named_and_does_what_the_others_do(several: SeveralServers) -> None:
    endpoint = several.endpoint()
    urls = endpoint["http_addresses"]
    assert len(set(urls)) == 3
    assert urls[0] == endpoint["http"]
    talk = (several.folder / "logs" / "up.log").read_text()
    assert all(f"server  {url}  (gRPC " in talk for url in urls)
    task_id = several.submit("--", "echo", "seen by all")
    seen = [json.loads(several.good("--server", url, "status", "-o", "json"))["server"] for url in urls]
    assert len({each["replicaId"] for each in seen}) == 3
    assert len({each["deploymentId"] for each in seen}) == 1
    for url in urls:
        assert several.good("--server", url, "logs", "-f", task_id) == "seen by all"


def test_the_leader_is_killed_under_load_and_every_task_ends_once(several: SeveralServers, tmp_path: Path) -> None:
    go, record = tmp_path / "go", tmp_path / "record"
    env = ("--cpus", "0.1", "--env", f"GO={go}")
    task_id = several.submit(*env, "--", "sh", "-c", COUNT)
    several.until_state(task_id, "RUNNING")
    with several.start("logs", "-f", task_id) as follower, several.start("run", *env, "--", "sh", "-c", COUNT) as run:
        first = [_first_line(follower), _first_line(run)]
        before, victim = several.sessions(), several.leader()
        gone = [agent for agent, server in several.servers_of_agents().items() if server == victim]
        with styx.Client(data_dir=several.folder) as client:
            spec = styx.TaskSpec(command=f'echo "$STYX_TASK_ID" >> {record}', resources=styx.Resources(cpus=0.1))
            small = client.submit_tasks([spec] * 100)
            until(record.exists, "the first of them ran")
            os.kill(several.server_pid(victim), signal.SIGKILL)
            small += client.submit_tasks([spec] * 100)
        assert several.styx("wait", *small).code == 0
        until(lambda: all(several.sessions()[agent] > before[agent] for agent in gone), "its agents are back")
        go.touch()
        rest = [process.communicate(timeout=LONG_SECONDS)[0] for process in (follower, run)]
    assert [begin + end for begin, end in zip(first, rest, strict=True)] == [LINES, LINES]
    assert run.returncode == 5
    assert Counter(record.read_text().split()) == Counter(small)
    assert {_attempts(several, each) for each in (task_id, small[0], small[-1])} == {1}
    several.until_all_serve()


def _have_moved(several: SeveralServers, agents: list[str], before: dict[str, int]) -> bool:
    now = several.sessions()
    return all(now[agent] > before[agent] for agent in agents)


def test_each_server_may_be_killed_in_its_turn(several: SeveralServers, tmp_path: Path) -> None:
    go = tmp_path / "go"
    task_id = several.submit("--cpus", "0.1", "--env", f"GO={go}", "--", "sh", "-c", COUNT)
    several.until_state(task_id, "RUNNING")
    ports = several.endpoint()["http_addresses"]
    for number in SERVERS:
        old, before, where = several.server_pid(number), several.sessions(), several.servers_of_agents()
        os.kill(old, signal.SIGKILL)
        # Clients find the others by themselves, whichever it was.
        assert several.styx("run", "--cpus", "0.1", "--", "echo", "still here").out == b"still here\n"
        until(lambda old=old, number=number: several.server_pid(number) not in (0, old), "it is back")  # type: ignore[misc]
        moved = [agent for agent, server in where.items() if server == number]
        until(lambda moved=moved, before=before: _have_moved(several, moved, before), "its agents are back")  # type: ignore[misc]
    assert several.endpoint()["http_addresses"] == ports
    go.touch()
    assert several.styx("wait", task_id).code == 5
    assert several.styx("logs", task_id).out == LINES
    assert _attempts(several, task_id) == 1


def test_a_server_that_is_told_to_stop_hands_its_agents_over(several: SeveralServers, tmp_path: Path) -> None:
    go = tmp_path / "go"
    task_id = several.submit("--cpus", "0.1", "--env", f"GO={go}", "--", "sh", "-c", COUNT)
    agent_id = several.until_state(task_id, "RUNNING")["agentId"]
    before, where = several.sessions(), several.servers_of_agents()
    victim = where[int(agent_id[1:])]
    moved = [agent for agent, server in where.items() if server == victim]
    old = several.server_pid(victim)
    os.kill(old, signal.SIGTERM)
    # Also while the first one is away, who looks into the data folder finds the others.
    assert several.styx("run", "--cpus", "0.1", "--", "true").code == 0
    until(lambda: all(several.sessions()[agent] > before[agent] for agent in moved), "its agents are elsewhere")
    for agent in moved:
        opened = several.events(f"agent-{agent}", "session_opened")[before[agent]]
        left = several.events(_log_name(victim), "server_ready")
        assert opened["replica_id"] not in {event["replica"] for event in left}
        assert several.events(f"agent-{agent}", "reconnect_asked")
    go.touch()
    assert several.styx("wait", task_id).code == 5
    assert several.styx("logs", task_id).out == LINES
    assert _attempts(several, task_id) == 1
    until(lambda: several.server_pid(victim) not in (0, old), "it is started again")


def test_no_server_falls_with_the_database_and_it_comes_back(several: SeveralServers, tmp_path: Path) -> None:
    several.until_all_serve()
    go = tmp_path / "go"
    task_id = several.submit("--cpus", "0.1", "--env", f"GO={go}", "--", "sh", "-c", COUNT)
    several.until_state(task_id, "RUNNING")
    servers = [several.server_pid(number) for number in SERVERS]
    place = several.folder / "database.json"
    assert place.stat().st_mode & 0o777 == 0o600
    database = json.loads(place.read_text())["pid"]
    os.kill(database, signal.SIGKILL)
    until(lambda: json.loads(place.read_text())["pid"] != database, "the database is back")
    go.touch()
    assert several.styx("wait", task_id).code == 5
    assert several.styx("logs", task_id).out == LINES
    assert _attempts(several, task_id) == 1
    assert [several.server_pid(number) for number in SERVERS] == servers


def _first_line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return bytes(process.stdout.readline())


def _attempts(stack: Stack, task_id: str) -> int:
    return len(stack.task(task_id)["attempts"])


def _log_name(number: int) -> str:
    return "server" if number == 1 else f"server-{number}"
