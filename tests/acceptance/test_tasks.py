"""A task's life as a user sees it: output, exit code, cancel, timeout, retry, and nothing left behind."""

from __future__ import annotations

import json

from tests.support.stack import Stack
from tests.support.until import until


def test_run_shows_both_streams_and_passes_the_exit_code_through(stack: Stack) -> None:
    done = stack.styx("run", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.code, done.text) == (7, "out\n")
    assert "err\n" in done.talk


def test_status_tells_the_whole_story_of_a_failed_task(stack: Stack) -> None:
    task_id = stack.submit("--", "sh", "-c", "exit 7")
    stack.styx("wait", task_id)
    task = stack.task(task_id)
    assert (task["state"], task["exitCode"], task["reason"]) == ("FAILED", 7, "exit_code")
    assert task["agentId"] == "a1"
    assert task["createTime"] <= task["startTime"] <= task["endTime"]
    assert [event["kind"] for event in task["timeline"]][:2] == ["submitted", "assigned"]
    shown = stack.good("status", task_id)
    for word in ("FAILED", "7", "a1", "Waited", "Started", "Ended"):
        assert word in shown


def test_cancelled_means_that_the_whole_tree_is_dead(stack: Stack) -> None:
    task_id = stack.submit("--", "sh", "-c", "sleep 31415 & sleep 31415")
    until(lambda: len(stack.processes("sleep 31415")) >= 2, "both sleeps run")
    stack.good("cancel", task_id)
    stack.styx("wait", task_id)
    assert stack.task(task_id)["state"] == "CANCELLED"
    assert not [line for line in stack.processes("sleep 31415").values() if "pytest" not in line]


def test_a_task_that_ignores_sigterm_dies_after_its_grace(stack: Stack) -> None:
    script = 'trap "" TERM; echo ready; while :; do sleep 0.1; done'
    task_id = stack.submit("--stop-grace", "300ms", "--", "sh", "-c", script)
    until(lambda: "ready" in stack.good("logs", task_id), "it has set its trap")
    stack.good("cancel", task_id)
    stack.styx("wait", task_id)
    assert stack.task(task_id)["state"] == "CANCELLED"


def test_a_timeout_ends_a_task_as_timed_out(stack: Stack) -> None:
    done = stack.styx("run", "--timeout", "300ms", "--", "sleep", "27182")
    assert done.code == 121
    assert "TIMED_OUT" in done.talk
    assert not stack.processes("sleep 27182")


def test_a_daemon_that_forks_twice_does_not_outlive_its_task(stack: Stack) -> None:
    script = "setsid sh -c 'sleep 16180 & exec sleep 16180' </dev/null >/dev/null 2>&1 & sleep 0.3"
    assert stack.styx("run", "--stop-grace", "1s", "--", "sh", "-c", script).code == 0
    assert not stack.processes("sleep 16180")


def test_a_waiting_task_is_cancelled_at_once(stack: Stack) -> None:
    task_id = stack.submit("--require-label", "zone=nowhere", "--", "true")
    stack.good("cancel", task_id)
    assert stack.task(task_id)["state"] == "CANCELLED"


def test_failures_are_retried_with_backoff_until_the_budget_is_spent(stack: Stack) -> None:
    task_id = stack.submit("--retries", "2", "--backoff", "50ms", "--", "sh", "-c", "echo $STYX_ATTEMPT; exit 3")
    assert stack.styx("wait", task_id).code == 3
    task = stack.task(task_id)
    assert [attempt["number"] for attempt in task["attempts"]] == [1, 2, 3]
    assert [attempt["cause"] for attempt in task["attempts"]] == ["first", "retry", "retry"]
    assert stack.good("logs", task_id, "--attempt", "2") == "2"


def test_retry_gives_a_failed_task_one_more_attempt(stack: Stack) -> None:
    task_id = stack.submit("--", "sh", "-c", 'test "$STYX_ATTEMPT" = 2')
    assert stack.styx("wait", task_id).code == 1
    stack.good("retry", task_id)
    assert stack.styx("wait", task_id).code == 0
    assert stack.styx("retry", task_id).code != 0


def test_the_environment_is_made_from_scratch(stack: Stack) -> None:
    shown = stack.styx("run", "--env", "COLOUR=blue", "--", "env", STYX_TOKEN="", SECRET_OF_CALLER="x")
    variables = dict(line.split("=", 1) for line in shown.text.splitlines())
    assert variables["COLOUR"] == "blue"
    assert variables["STYX_TASK_ID"].startswith("t")
    assert variables["STYX_ATTEMPT"] == "1"
    assert int(variables["STYX_FENCE"]) > 0
    assert "STYX_DATA_DIR" not in variables
    assert "STYX_JOIN_TOKEN" not in variables


def test_each_attempt_has_a_directory_of_its_own(stack: Stack) -> None:
    one = stack.styx("run", "--", "sh", "-c", "pwd; ls -A; touch here").text
    two = stack.styx("run", "--", "sh", "-c", "pwd; ls -A").text
    assert one.splitlines()[0] != two.splitlines()[0]
    assert len(one.splitlines()) == len(two.splitlines()) == 1


def test_a_command_that_does_not_exist_says_so(stack: Stack) -> None:
    task_id = stack.submit("--", "no-such-program")
    stack.styx("wait", task_id)
    task = stack.task(task_id)
    assert (task["state"], task["reason"]) == ("FAILED", "start_failed")
    assert "no-such-program" in task["message"]


def test_more_than_any_agent_has_waits_with_the_reason(stack: Stack) -> None:
    task_id = stack.submit("--memory", "100TiB", "--", "true")
    until(lambda: stack.task(task_id)["reason"] == "no_match", "the scheduler has looked")
    task = stack.task(task_id)
    assert task["state"] == "PENDING"
    assert "memory" in task["message"]
    stack.good("cancel", task_id)


def test_a_task_that_wants_another_machine_than_there_is_says_so(stack: Stack) -> None:
    task_id = stack.submit("--provider", "aws", "--region", "us-east-1", "--spot", "--", "true")
    until(lambda: stack.task(task_id)["reason"] == "no_match", "the scheduler has looked")
    assert "lack" in stack.task(task_id)["message"]
    assert "in aws/us-east-1, spot" in stack.good("status", task_id)
    stack.good("cancel", task_id)
    done = stack.styx("submit", "--infra", "awz", "--", "true")
    assert done.code != 0
    assert "did you mean aws?" in done.talk


def test_a_task_takes_the_alternative_that_is_to_be_had(stack: Stack) -> None:
    words = ["--cpus", "0.1", "--ordered", "cpus=5000", "--ordered", "infra=static memory=64MiB"]
    task_id = stack.submit(*words, "--", "sleep", "60")
    stack.until_state(task_id, "RUNNING")
    agent = json.loads(stack.good("agent", "show", stack.task(task_id)["agentId"], "-o", "json"))
    assert (agent["reserved"]["cpus"], agent["reserved"]["memoryBytes"]) == (0.1, str(64 << 20))
    stack.good("cancel", task_id)


def test_priority_goes_before_age(stack: Stack) -> None:
    cpus = str(json.loads(stack.good("agent", "show", "a1", "-o", "json"))["capacity"]["cpus"])
    blocker = stack.submit("--cpus", cpus, "--", "sleep", "60")
    stack.until_state(blocker, "RUNNING")
    script = "date +%s%N"
    low = stack.submit("--cpus", cpus, "--priority", "-5", "--", "sh", "-c", script)
    high = stack.submit("--cpus", cpus, "--priority", "5", "--", "sh", "-c", script)
    assert stack.task(low)["reason"] in ("", "capacity")
    stack.good("cancel", blocker)
    for task_id in (low, high):
        assert stack.styx("wait", task_id).code == 0
    assert int(stack.good("logs", high)) < int(stack.good("logs", low))


def test_a_drained_agent_takes_no_new_work_until_it_is_put_back(stack: Stack) -> None:
    stack.good("agent", "drain", "a1")
    try:
        task_id = stack.submit("--", "true")
        until(lambda: stack.task(task_id)["reason"] == "capacity", "the scheduler has looked")
        assert json.loads(stack.good("agent", "show", "a1", "-o", "json"))["state"] == "DRAINING"
    finally:
        stack.good("agent", "drain", "a1", "--undo")
    assert stack.styx("wait", task_id).code == 0
