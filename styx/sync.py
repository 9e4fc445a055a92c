"""The client, for programs without asyncio: drives `AsyncClient` on one background event loop.

Nothing is written twice: each method here is made from the asynchronous one, with its signature and its docstring. The
loop runs in a daemon thread and is shared by all clients of the process, because gRPC wants one loop per process.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Sequence
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from styx.client import AsyncClient
from styx.retry import RetrySettings

P = ParamSpec("P")
R = TypeVar("R")

_lock = threading.Lock()
_loops: dict[int, asyncio.AbstractEventLoop] = {}


def _answer(
    method: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[Client, P], R]:
    """A blocking method from one that is awaited."""

    @wraps(method)
    def blocking(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return _drive(method(self._client, *args, **kwargs))

    return blocking


def _each(
    method: Callable[Concatenate[AsyncClient, P], AsyncGenerator[R, None]],
) -> Callable[Concatenate[Client, P], Generator[R, None, None]]:
    """A blocking iterator from an asynchronous one."""

    @wraps(method)
    def blocking(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Generator[R, None, None]:
        source = method(self._client, *args, **kwargs)
        try:
            while True:
                item = _drive(_next(source))
                if isinstance(item, _End):
                    return
                yield item
        finally:
            _drive(source.aclose())

    return blocking


def _flat(
    method: Callable[Concatenate[AsyncClient, P], AsyncGenerator[Sequence[R], None]],
) -> Callable[Concatenate[Client, P], Generator[R, None, None]]:
    """A blocking iterator over the items of pages: one hop between threads per page, not per item."""
    pages = _each(method)

    @wraps(method)
    def blocking(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Generator[R, None, None]:
        for page in pages(self, *args, **kwargs):
            yield from page

    return blocking


class Client:
    """A client of one deployment that blocks until the answer is there. May be used from any thread."""

    def __init__(
        self,
        url: str | Sequence[str] | None = None,
        token: str | None = None,
        *,
        data_dir: Path | str | None = None,
        namespace: str = "",
        retry: RetrySettings | None = None,
    ) -> None:
        """See `AsyncClient`: the arguments and their meaning are the same."""
        self._client = AsyncClient(url, token, data_dir=data_dir, namespace=namespace, retry=retry)

    submit_task = _answer(AsyncClient.submit_task)
    submit_tasks = _answer(AsyncClient.submit_tasks)
    get_task = _answer(AsyncClient.get_task)
    get_status = _answer(AsyncClient.get_status)
    list_tasks = _flat(AsyncClient.task_pages)
    cancel = _answer(AsyncClient.cancel)
    retry = _answer(AsyncClient.retry)
    watch = _each(AsyncClient.watch)
    wait = _answer(AsyncClient.wait)
    wait_all = _answer(AsyncClient.wait_all)
    logs = _each(AsyncClient.logs)
    agents = _each(AsyncClient.agents)
    agent = _answer(AsyncClient.agent)
    drain_agent = _answer(AsyncClient.drain_agent)
    watch_agent_empty = _each(AsyncClient.watch_agent_empty)
    remove_agent = _answer(AsyncClient.remove_agent)
    create_join_token = _answer(AsyncClient.create_join_token)
    pools = _each(AsyncClient.pools)
    pool = _answer(AsyncClient.pool)
    create_pool = _answer(AsyncClient.create_pool)
    update_pool = _answer(AsyncClient.update_pool)
    delete_pool = _answer(AsyncClient.delete_pool)
    instances = _each(AsyncClient.instances)
    instance = _answer(AsyncClient.instance)
    terminate_instance = _answer(AsyncClient.terminate_instance)
    set_renting = _answer(AsyncClient.set_renting)
    offers = _each(AsyncClient.offers)
    gpus = _each(AsyncClient.gpus)
    check_providers = _each(AsyncClient.check_providers)
    plan = _answer(AsyncClient.plan)
    refresh_catalog = _each(AsyncClient.refresh_catalog)
    import_catalog = _answer(AsyncClient.import_catalog)
    cost = _answer(AsyncClient.cost)
    set_budget = _answer(AsyncClient.set_budget)
    budgets = _each(AsyncClient.budgets)
    delete_budget = _answer(AsyncClient.delete_budget)
    server_info = _answer(AsyncClient.server_info)
    close = _answer(AsyncClient.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _End:
    """Stands for the end of an iterator, which no future can carry as an exception."""


async def _next(source: AsyncGenerator[R, None]) -> R | _End:
    return await anext(source, _End())


def _drive(work: Coroutine[Any, Any, R]) -> R:
    """Runs `work` on the background loop; an interrupt of the caller cancels it."""
    future = asyncio.run_coroutine_threadsafe(work, _loop())
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def _loop() -> asyncio.AbstractEventLoop:
    """The loop of this process; a forked child gets one of its own."""
    with _lock:
        loop = _loops.get(os.getpid())
        if loop is None:
            loop = _loops[os.getpid()] = asyncio.new_event_loop()
            thread = threading.Thread(target=loop.run_forever, name="styx-client", daemon=True)
            thread.start()
            atexit.register(_stop, loop, thread)
        return loop


def _stop(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    if loop.is_running():
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=2.0)
