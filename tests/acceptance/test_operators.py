"""What operators do to machines, with the shipped commands, and what it costs the tasks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.stack import Stack, running_stack
from tests.support.until import until

ONCE_LONG = 'test "$STYX_ATTEMPT" != 1 || exec sleep 600'


def agents(stack: Stack) -> dict[str, Any]:
    return {agent["id"]: agent for agent in json.loads(stack.good("agent", "list", "-o", "json"))}


def test_a_drained_machine_is_emptied_and_removed_and_its_task_runs_elsewhere(tmp_path: Path) -> None:
    with running_stack(tmp_path / "data", "--agents", "2") as stack:
        task_id = stack.submit("--cpus", "0.1", "--", "sh", "-c", ONCE_LONG)
        leaving = stack.until_state(task_id, "RUNNING")["agentId"]
        refused = stack.styx("agent", "remove", leaving)
        assert (refused.code, "drain it first" in refused.talk) == (1, True)
        done = stack.styx("agent", "drain", leaving, "--deadline", "0s", "--wait")
        assert (done.code, f"waits for 1 attempt on {leaving}: {task_id}" in done.talk) == (0, True)
        assert stack.styx("wait", task_id).code == 0
        task = stack.task(task_id)
        assert [attempt["cause"] for attempt in task["attempts"]] == ["first", "preempted"]
        assert task["attempts"][1]["agentId"] != leaving
        stack.good("agent", "remove", leaving)
        assert list(agents(stack)) == [task["attempts"][1]["agentId"]]
        until(lambda: f"agent {leaving} was removed" in _agent_logs(stack), "the agent says why it ends")
        # Removed is removed: said again, it is still true.
        stack.good("agent", "remove", leaving)
        assert "there is no agent" in stack.styx("agent", "show", leaving).talk


def test_a_deadline_outlives_the_server_that_took_it(tmp_path: Path) -> None:
    with running_stack(tmp_path / "data", "--agents", "2") as stack:
        task_id = stack.submit("--cpus", "0.1", "--", "sh", "-c", ONCE_LONG)
        leaving = stack.until_state(task_id, "RUNNING")["agentId"]
        stack.good("agent", "drain", leaving, "--deadline", "3s")
        stack.kill("styx_server")
        until(lambda: stack.styx("status").code == 0, "the server is back")
        assert stack.styx("wait", task_id).code == 0
        causes = [attempt["cause"] for attempt in stack.task(task_id)["attempts"]]
        assert causes == ["first", "preempted"]
        assert agents(stack)[leaving]["state"] == "DRAINING"


def test_an_agent_that_is_removed_by_force_stops_what_it_runs(own_stack: Stack) -> None:
    stack = own_stack
    task_id = stack.submit("--", "sleep", "4713.25")
    agent_id = stack.until_state(task_id, "RUNNING")["agentId"]
    done = stack.styx("agent", "remove", agent_id, "--force")
    assert (done.code, "still held 1 attempt" in done.talk) == (0, True)
    until(lambda: not stack.processes("sleep 4713.25"), "the command is gone")
    # Nobody could report it, so nobody claims to know: it is lost when its lease has run out.
    assert stack.task(task_id)["state"] == "RUNNING"
    refused = stack.styx("agent", "remove", agent_id, "--lost")
    assert (refused.code, "its machine is not gone" in refused.talk) == (1, True)
    assert agents(stack) == {}


def _agent_logs(stack: Stack) -> str:
    return "".join(path.read_text() for path in (stack.folder / "logs").glob("*.log"))
