"""The blocking client, in programs of their own: one process may have one event loop with gRPC in it."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import styx
from styx.client import AsyncClient
from tests.support.memory_service import Running, serving


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with serving(tmp_path / "data") as running:
        yield running


async def _program(running: Running, text: str) -> asyncio.subprocess.Process:
    env = {"PATH": os.environ["PATH"], "STYX_DATA_DIR": str(running.data_dir)}
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", text, env=env, stdout=pipe, stderr=pipe
    )


async def _output(running: Running, text: str) -> str:
    process = await _program(running, text)
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    assert err == b""
    return out.decode()


async def test_the_first_example_works_as_written(running: Running) -> None:
    text = f"""
import styx
client = styx.Client({running.url!r})
task_id = client.submit_task("echo Hello")
status = client.get_status(task_id)
for chunk in client.logs(task_id, follow=True):
    print(chunk.text, end="")
print(task_id, client.wait(task_id).state, status.task_id)
"""
    assert await _output(running, text) == "Hello\nt1 SUCCEEDED t1\n"


async def test_iterators_threads_and_context_managers_work(running: Running) -> None:
    text = """
import styx, threading
with styx.Client() as client:
    ids = client.submit_tasks(["true"] * 20)
    client.wait_all(ids)
    print(len(list(client.list_tasks())), len(list(client.list_tasks(limit=3))))
    print([agent.id for agent in client.agents()])
    seen = []
    threads = [threading.Thread(target=lambda: seen.append(client.server_info().version)) for _ in range(8)]
    [thread.start() for thread in threads]; [thread.join() for thread in threads]
    print(seen == ["0.1.0"] * 8)
    for update in client.watch(ids):
        print(len(update.tasks))
        break
    try:
        client.get_task("t99")
    except styx.StyxError as error:
        print(error.reason)
"""
    assert await _output(running, text) == "20 3\n['a1']\nTrue\n20\nTASK_NOT_FOUND\n"


async def test_an_interrupt_ends_a_wait_at_once(running: Running) -> None:
    text = """
import styx
client = styx.Client()
task_id = client.submit_task("sleep 100")
print("waiting", flush=True)
client.wait(task_id)
"""
    process = await _program(running, text)
    assert process.stdout is not None
    await process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert process.returncode == -signal.SIGINT
    assert b"KeyboardInterrupt" in err


def test_both_clients_have_the_same_methods() -> None:
    def methods(kind: type) -> set[str]:
        return {name for name, value in inspect.getmembers(kind) if not name.startswith("_") and callable(value)}

    assert methods(AsyncClient) - {"task_pages"} == methods(styx.Client)
    for name in methods(styx.Client) - {"list_tasks"}:
        assert getattr(styx.Client, name).__doc__ == getattr(AsyncClient, name).__doc__


async def test_importing_the_package_imports_neither_grpc_nor_protobuf(running: Running) -> None:
    text = (
        "import sys, styx, styx.errors; print([m for m in ('grpc', 'google.protobuf', 'asyncio') if m in sys.modules])"
    )
    assert await _output(running, text) == "[]\n"
