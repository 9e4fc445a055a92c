"""Many tasks, and the same request many times."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

import styx
from tests.support.stack import Stack
from tests.support.until import until


def _client(stack: Stack) -> styx.Client:
    return styx.Client(data_dir=stack.folder)


@pytest.mark.timeout(400)
def test_ten_thousand_tasks_in_one_call_each_run_exactly_once(own_stack: Stack) -> None:
    stack = own_stack
    record = stack.folder.parent / "record"
    with _client(stack) as client:
        spec = styx.TaskSpec(command=f'echo "$STYX_TASK_ID" >> {record}', resources=styx.Resources(cpus=0.1))
        ids = client.submit_tasks([spec] * 10_000)
        assert len(set(ids)) == 10_000
        until(lambda: client.server_info().task_counts.get("SUCCEEDED", 0) == 10_000, "all have succeeded", seconds=350)
        tasks = list(client.list_tasks(limit=20_000))
        more = [client.get_task(task.id) for task in tasks if task.attempt_count > 1]
    assert Counter(str(task.state) for task in tasks) == {"SUCCEEDED": 10_000}
    assert all(_outcomes(task)[:-1] == ["RETURNED"] * (task.attempt_count - 1) for task in more)
    assert Counter(record.read_text().split()) == Counter(ids)
    listed = stack.good("list", "--all", "-o", "name").split()
    assert listed == sorted(ids, key=lambda task_id: -int(task_id[1:]))


def _outcomes(task: styx.Task) -> list[str]:
    attempts = sorted(task.attempts, key=lambda attempt: attempt.number)
    return [str(attempt.outcome.kind) for attempt in attempts if attempt.outcome]


# Each takes half of the machine, so two at a time may hold a place; a third finds none and betrays that it is there.
PLACE = """
exec 8>"$DIR/place1" 9>"$DIR/place2"
flock -n 8 || flock -n 9 || echo "$STYX_TASK_ID" >> "$DIR/third"
sleep "$NAP"
"""


def test_long_tasks_behind_short_ones_wait_for_room_and_not_for_one_agent(own_stack: Stack) -> None:
    """An agent that was quick is given some ahead; those that then find it busy for long are given back."""
    folder = own_stack.folder.parent
    with _client(own_stack) as client:
        (agent,) = client.agents()
        half = styx.Resources(cpus=agent.capacity.cpus / 2)

        def spec(nap: float) -> styx.TaskSpec:
            return styx.TaskSpec(command=PLACE, env={"DIR": str(folder), "NAP": str(nap)}, resources=half)

        ids = client.submit_tasks([spec(0)] * 200 + [spec(3)] * 4 + [spec(0)] * 20)
        tasks = [client.wait(task_id, timeout=120) for task_id in ids]
        seen = [_outcomes(client.get_task(task_id)) for task_id in ids]
    assert {str(task.state) for task in tasks} == {"SUCCEEDED"}
    assert all(outcomes[-1] == "EXITED" and set(outcomes[:-1]) <= {"RETURNED"} for outcomes in seen)
    assert not (folder / "third").exists(), (folder / "third").read_text()


def test_one_request_id_sent_a_hundred_times_at_once_makes_one_task(stack: Stack) -> None:
    with _client(stack) as client, ThreadPoolExecutor(100) as threads:
        ids = list(threads.map(lambda _: client.submit_task("true", request_id="one-and-only"), range(100)))
        assert len(set(ids)) == 1
        with pytest.raises(styx.StyxError) as refused:
            client.submit_task("false", request_id="one-and-only")
    assert refused.value.reason == "REQUEST_ID_REUSED"
    assert stack.styx("submit", "--request-id", "one-and-only", "--", "false").code == 1
