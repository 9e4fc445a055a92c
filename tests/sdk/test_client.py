"""The asynchronous client against a service in memory, over real gRPC."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

import styx
from styx import errors
from styx.models import LogStream, Resources
from styx.retry import RetrySettings
from tests.support.memory_service import TOKEN, Fault, Running, serving
from tests.support.until import soon

QUICK = RetrySettings(first_wait_seconds=0.01, longest_wait_seconds=0.05, budget_seconds=10.0)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with serving(tmp_path / "data") as running:
        yield running


@pytest.fixture
async def client(running: Running) -> AsyncIterator[styx.AsyncClient]:
    async with styx.AsyncClient(data_dir=running.data_dir, retry=QUICK) as client:
        yield client


async def _read(client: styx.AsyncClient, task_id: str, **options: object) -> dict[LogStream, bytes]:
    read = {LogStream.STDOUT: b"", LogStream.STDERR: b""}
    async with aclosing(client.logs(task_id, **options)) as chunks:  # type: ignore[arg-type]
        async for chunk in chunks:
            read[chunk.stream] += chunk.data
    return read


async def test_a_task_goes_from_submit_to_its_last_byte(client: styx.AsyncClient) -> None:
    task_id = await client.submit_task("echo out; echo err >&2; exit 7")
    assert await _read(client, task_id, follow=True) == {LogStream.STDOUT: b"out\n", LogStream.STDERR: b"err\n"}
    task = await client.wait(task_id)
    assert (task.state, task.exit_code) == (styx.TaskState.FAILED, 7)
    status = await client.get_status(int(task_id[1:]))
    assert (status.task_id, status.state) == (task_id, styx.TaskState.FAILED)


async def test_options_reach_the_server(running: Running, client: styx.AsyncClient) -> None:
    await client.submit_task(["true"], name="n", cpus=2, memory="1GiB", labels={"a": "b"}, env={"X": "y"})
    _, request = running.service.calls[-1]
    assert request.spec.name == "n"
    assert list(request.spec.argv) == ["true"]
    assert request.spec.resources.memory_bytes == 1 << 30
    assert dict(request.spec.env) == {"X": "y"}


async def test_a_submit_whose_answer_was_lost_makes_one_task(running: Running, client: styx.AsyncClient) -> None:
    running.service.faults.append(Fault("SubmitTask", after_commit=True))
    task_id = await client.submit_task("true")
    assert task_id == "t1"
    assert len(running.service.tasks) == 1
    first, second = (request.request_id for name, request in running.service.calls if name == "SubmitTask")
    assert first == second != ""


async def test_a_request_id_used_for_something_else_is_refused(client: styx.AsyncClient) -> None:
    await client.submit_task("true", request_id="r")
    assert await client.submit_task("true", request_id="r") == "t1"
    with pytest.raises(errors.RequestIdReused):
        await client.submit_task("false", request_id="r")


async def test_the_wait_that_the_server_asks_for_is_kept(running: Running, client: styx.AsyncClient) -> None:
    running.service.faults.append(Fault("GetServerInfo", retry_after_seconds=0.3))
    began = asyncio.get_running_loop().time()
    await client.server_info()
    assert asyncio.get_running_loop().time() - began >= 0.3


async def test_an_error_that_says_so_ends_when_the_budget_is_spent(running: Running) -> None:
    running.service.faults.extend(Fault("GetServerInfo") for _ in range(1000))
    patience = RetrySettings(first_wait_seconds=0.01, longest_wait_seconds=0.02, budget_seconds=0.2)
    async with styx.AsyncClient(data_dir=running.data_dir, retry=patience) as client:
        with pytest.raises(errors.StoreUnavailable, match="the database is away"):
            await client.server_info()


async def test_a_final_error_is_not_tried_again(running: Running, client: styx.AsyncClient) -> None:
    running.service.faults.append(Fault("GetServerInfo", code=grpc.StatusCode.INTERNAL, reason="INTERNAL_ERROR"))
    with pytest.raises(errors.InternalError):
        await client.server_info()
    assert [name for name, _ in running.service.calls] == ["GetServerInfo"]


async def test_a_reason_of_a_later_version_falls_back_to_the_status(running: Running, client: styx.AsyncClient) -> None:
    running.service.faults.append(Fault("GetServerInfo", code=grpc.StatusCode.NOT_FOUND, reason="MOON_NOT_FOUND"))
    with pytest.raises(errors.NotFound) as failure:
        await client.server_info()
    assert failure.value.reason == "MOON_NOT_FOUND"


async def test_unknown_ids_and_wrong_tokens_have_their_own_errors(running: Running, client: styx.AsyncClient) -> None:
    with pytest.raises(errors.TaskNotFound, match="t99"):
        await client.get_task("t99")
    with pytest.raises(errors.AgentNotFound):
        await client.agent("a99")
    async with styx.AsyncClient(running.url, "wrong") as stranger:
        with pytest.raises(errors.Unauthenticated):
            await stranger.server_info()


async def test_commands_of_a_batch_arrive_as_they_are_also_when_they_repeat(client: styx.AsyncClient) -> None:
    words = ["echo", "a b"]
    ids = await client.submit_tasks([words, "echo a", tuple(words), "echo a", ["echo", "other"]])
    specs = [(await client.get_task(task_id)).spec for task_id in ids]
    assert [spec and (spec.argv, spec.command) for spec in specs] == [
        (("echo", "a b"), ""),
        ((), "echo a"),
        (("echo", "a b"), ""),
        ((), "echo a"),
        (("echo", "other"), ""),
    ]


async def test_wrong_input_names_its_field_and_a_batch_its_index(running: Running, client: styx.AsyncClient) -> None:
    with pytest.raises(errors.InvalidRequest) as refusal:
        await client.submit_task("")
    assert refusal.value.violations[0].field == "spec.command"
    with pytest.raises(errors.InvalidRequest) as refusal:
        await client.submit_tasks(["true", styx.TaskSpec(command="true", resources=Resources(cpus=-1))])
    assert refusal.value.violations[0].field == "specs[1].resources.cpus"
    with pytest.raises(errors.InvalidRequest, match=r"specs\[1\]"):
        await client.submit_tasks(["true", styx.TaskSpec(priority=10**12)])
    assert not running.service.tasks


async def test_a_log_that_is_cut_again_and_again_arrives_once(running: Running, client: styx.AsyncClient) -> None:
    task_id = await client.submit_task("seq 100000; seq 100000 >&2")
    await client.wait(task_id)
    running.service.cut_logs_after.extend([0, 3, 1, 0, 2, 5])
    expected = b"".join(b"%d\n" % number for number in range(1, 100001))
    assert await _read(client, task_id) == {LogStream.STDOUT: expected, LogStream.STDERR: expected}
    running.service.cut_logs_after.extend([0, 3, 1])
    assert (await _read(client, task_id, follow=True))[LogStream.STDERR] == expected


async def test_one_stream_or_the_last_lines_can_be_asked_for(client: styx.AsyncClient) -> None:
    task_id = await client.submit_task("seq 10; echo e >&2")
    await client.wait(task_id)
    assert await _read(client, task_id, stream="stderr") == {LogStream.STDOUT: b"", LogStream.STDERR: b"e\n"}
    assert (await _read(client, task_id, tail=2))[LogStream.STDOUT] == b"9\n10\n"
    with pytest.raises(errors.InvalidRequest):
        await _read(client, task_id, stream="stdin")


async def test_a_wait_ends_for_all_and_in_order(client: styx.AsyncClient) -> None:
    ids = await client.submit_tasks(["sleep 0.2", "exit 3", "true"])
    ended = await client.wait_all(ids)
    assert [(task.id, task.exit_code) for task in ended] == [("t1", 0), ("t2", 3), ("t3", 0)]
    assert await client.wait_all([]) == []


async def test_a_wait_may_run_out_and_the_task_goes_on(client: styx.AsyncClient) -> None:
    task_id = await client.submit_task("sleep 30")
    with pytest.raises(TimeoutError) as failure:
        await client.wait(task_id, timeout=0.1)
    assert isinstance(failure.value, errors.WaitTimedOut)
    assert (await client.get_status(task_id)).state is not styx.TaskState.SUCCEEDED


async def test_a_watch_that_breaks_goes_on(running: Running, client: styx.AsyncClient) -> None:
    running.service.faults.append(Fault("WatchTasks"))
    task_id = await client.submit_task("sleep 0.1; exit 2")
    states = []
    async with aclosing(client.watch([task_id])) as updates:
        async for update in updates:
            states += [task.state for task in update.tasks]
            if states[-1].is_terminal:
                break
    assert states[-1] is styx.TaskState.FAILED


async def test_cancel_takes_several_and_all_or_none(client: styx.AsyncClient) -> None:
    ids = await client.submit_tasks(["sleep 100", "sleep 100"])
    with pytest.raises(errors.TaskNotFound):
        await client.cancel(ids[0], "t99")
    assert not (await client.get_status(ids[0])).state.is_terminal
    await client.cancel(*ids, stop_grace="1s")
    assert {task.state for task in await client.wait_all(ids)} == {styx.TaskState.CANCELLED}


async def test_retry_knows_too_early_and_too_late(client: styx.AsyncClient) -> None:
    bad, good, slow = await client.submit_tasks(["exit 1", "true", "sleep 100"])
    await client.wait_all([bad, good])
    assert not (await client.retry(bad)).state.is_terminal
    with pytest.raises(errors.TaskEnded):
        await client.retry(good)
    with pytest.raises(errors.TaskNotEnded):
        await client.retry(slow)


async def test_lists_are_read_page_by_page_and_no_further_than_wanted(
    running: Running, client: styx.AsyncClient
) -> None:
    running.service.hold = True
    await client.submit_tasks(["true"] * 2500)
    assert [task.id async for task in client.list_tasks()] == [f"t{number}" for number in range(2500, 0, -1)]
    running.service.calls.clear()
    assert [task.id async for task in client.list_tasks(limit=2)] == ["t2500", "t2499"]
    assert len(running.service.calls) == 1
    with pytest.raises(errors.FilterInvalid):
        _ = [task async for task in client.list_tasks(filter="moon=1")]


async def test_agents_can_be_listed_drained_and_invited(client: styx.AsyncClient) -> None:
    assert [agent.id async for agent in client.agents()] == ["a1"]
    assert (await client.drain_agent(1)).state == "DRAINING"
    assert (await client.drain_agent("a1", undo=True)).state == "READY"
    made = await client.create_join_token(max_uses=2, labels={"a": "b"})
    assert made.token not in repr(made)


async def test_an_agent_is_drained_watched_and_removed(client: styx.AsyncClient, running: Running) -> None:
    stored = running.service.agents["a1"]
    stored.attempt_count = 1
    stored.task_ids.append("t7")
    drained = await client.drain_agent("a1", deadline=timedelta(minutes=10))
    assert (drained.task_ids, drained.drain_deadline is None) == (("t7",), False)
    assert running.service.calls[-1][1].deadline.seconds == 600
    with pytest.raises(errors.AgentInUse) as caught:
        await client.remove_agent("a1")
    assert "styx agent drain" in caught.value.remedy
    seen = []
    async for agent in client.watch_agent_empty("a1"):
        seen.append(agent.attempt_count)
        stored.attempt_count = 0
    assert seen == [1, 0]
    assert await client.remove_agent("a1", force=True) == 0
    with pytest.raises(errors.AgentNotFound):
        await client.remove_agent("a1", lost=True)


async def test_a_server_that_is_not_there_is_an_error_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    loop = asyncio.get_running_loop()
    for url in (f"http://127.0.0.1:{port}", f"grpc://127.0.0.1:{port}"):
        began = loop.time()
        async with styx.AsyncClient(url, "x", data_dir=tmp_path) as client:
            with pytest.raises(errors.ServerUnreachable, match=r"127\.0\.0\.1"):
                await client.server_info()
        assert loop.time() - began < 3.0


async def test_a_server_that_never_answers_is_given_up(tmp_path: Path) -> None:
    patience = RetrySettings(connect_timeout_seconds=0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        for url in (f"http://127.0.0.1:{port}", f"grpc://127.0.0.1:{port}"):
            async with styx.AsyncClient(url, "x", data_dir=tmp_path, retry=patience) as client:
                with pytest.raises(errors.ServerUnreachable):
                    await client.server_info()


async def test_an_address_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for url in ("ftp://x", "http://", "http://x:notaport", "grpc://x"):
        async with styx.AsyncClient(url, "x", data_dir=tmp_path) as client:
            with pytest.raises(errors.InvalidAddress):
                await client.server_info()


async def test_the_next_address_is_tried_when_one_is_dead(running: Running) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    async with styx.AsyncClient(f"http://127.0.0.1:{port},{running.url}", TOKEN) as client:
        assert (await client.server_info()).version == "0.1.0"


async def test_a_restart_of_the_server_is_ridden_out(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as running:
        port = int(running.grpc_address.rpartition(":")[2])
        client = styx.AsyncClient(f"grpc://{running.grpc_address}", TOKEN, retry=QUICK)
        await client.server_info()
    async with asyncio.TaskGroup() as group:
        answer = group.create_task(client.submit_task("true"))
        async with serving(tmp_path / "data", grpc_port=port) as again:
            await soon(lambda: bool(again.service.tasks), "the submit arrives")
            assert await answer == "t1"
            await client.close()


async def test_a_closed_client_says_so(running: Running) -> None:
    client = styx.AsyncClient(data_dir=running.data_dir)
    await client.server_info()
    await client.close()
    with pytest.raises(styx.Final, match="closed"):
        await client.server_info()


async def test_leaving_a_stream_early_ends_the_call(running: Running, client: styx.AsyncClient) -> None:
    task_id = await client.submit_task("yes")
    async with aclosing(client.logs(task_id, follow=True)) as chunks:
        assert (await anext(chunks)).data.startswith(b"y\n")
    await client.cancel(task_id)
    assert (await client.wait(task_id)).state is styx.TaskState.CANCELLED
    assert running.service.tasks


async def test_an_endpoint_file_of_a_dead_server_does_not_lead_astray(running: Running) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    old = json.loads((running.data_dir / "endpoint.json").read_text())
    (running.data_dir / "endpoint.json").write_text(json.dumps(old | {"grpc": f"127.0.0.1:{port}"}))
    async with styx.AsyncClient(running.url, data_dir=running.data_dir) as client:
        assert (await client.server_info()).version == "0.1.0"
