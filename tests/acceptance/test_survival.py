"""What was promised holds when processes are killed, and when the whole of Styx is stopped and started again."""

from __future__ import annotations

from tests.support.stack import LONG_SECONDS, Stack
from tests.support.until import until

COUNT = """
i=0; while [ $i -lt 60 ]; do echo line $i; i=$((i+1)); sleep 0.05; done
while [ ! -e "$GO" ]; do sleep 0.05; done
exit 5
"""
LINES = "".join(f"line {number}\n" for number in range(60)).encode()


def test_a_task_survives_the_death_of_its_agents_link(own_stack: Stack) -> None:
    _survives(own_stack, "styx_agent")


def test_a_task_survives_the_death_of_the_server(own_stack: Stack) -> None:
    _survives(own_stack, "styx_server")


def _survives(stack: Stack, victim: str) -> None:
    go = stack.folder.parent / "go"
    task_id = stack.submit("--env", f"GO={go}", "--", "sh", "-c", COUNT)
    with stack.start("logs", "-f", task_id) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == b"line 0\n"
        stack.kill(victim)
        until(lambda: len(_ours(stack, victim)) == 1, f"{victim} is back")
        go.touch()
        rest, _ = follower.communicate(timeout=LONG_SECONDS)
    assert stack.styx("wait", task_id).code == 5
    assert b"line 0\n" + rest == LINES
    assert stack.styx("logs", task_id).out == LINES
    (attempt,) = stack.task(task_id)["attempts"]
    assert (attempt["number"], attempt["outcome"]["exitCode"]) == (1, 5)


def _ours(stack: Stack, module: str) -> list[int]:
    return [pid for pid, line in stack.processes().items() if f"-m {module} " in line]


def test_everything_is_still_there_after_a_restart(own_stack: Stack) -> None:
    stack = own_stack
    task_id = stack.submit("--", "echo", "kept")
    stack.styx("wait", task_id)
    stack.good("down")
    stack.good("up", "--detach", "--grpc-port", "0", "--http-port", "0")
    assert stack.task(task_id)["state"] == "SUCCEEDED"
    assert stack.good("logs", task_id) == "kept"
    assert stack.styx("run", "--", "true").code == 0


def test_a_task_that_runs_when_everything_is_stopped_runs_again_afterwards(own_stack: Stack) -> None:
    stack = own_stack
    task_id = stack.submit("--", "sh", "-c", 'test "$STYX_ATTEMPT" != 1 || exec sleep 60')
    stack.until_state(task_id, "RUNNING")
    stack.good("down")
    assert not stack.processes()
    stack.good("up", "--detach", "--grpc-port", "0", "--http-port", "0")
    assert stack.styx("wait", task_id).code == 0
    causes = [attempt["cause"] for attempt in stack.task(task_id)["attempts"]]
    assert causes == ["first", "preempted"]
