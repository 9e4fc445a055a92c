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
    assert Counter(str(task.state) for task in tasks) == {"SUCCEEDED": 10_000}
    assert {task.attempt_count for task in tasks} == {1}
    assert Counter(record.read_text().split()) == Counter(ids)
    listed = stack.good("list", "--all", "-o", "name").split()
    assert listed == sorted(ids, key=lambda task_id: -int(task_id[1:]))


def test_one_request_id_sent_a_hundred_times_at_once_makes_one_task(stack: Stack) -> None:
    with _client(stack) as client, ThreadPoolExecutor(100) as threads:
        ids = list(threads.map(lambda _: client.submit_task("true", request_id="one-and-only"), range(100)))
        assert len(set(ids)) == 1
        with pytest.raises(styx.StyxError) as refused:
            client.submit_task("false", request_id="one-and-only")
    assert refused.value.reason == "REQUEST_ID_REUSED"
    assert stack.styx("submit", "--request-id", "one-and-only", "--", "false").code == 1
