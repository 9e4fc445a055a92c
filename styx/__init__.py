"""The SDK of Styx: submit commands to run on machines, follow their output, learn how they ended.

    import styx

    client = styx.Client("http://localhost:8080")
    task_id = client.submit_task("echo Hello")
    for chunk in client.logs(task_id, follow=True):
        print(chunk.text, end="")
    print(client.wait(task_id).state)

May import gRPC, protobuf and the standard library, nothing of the other three packages. Names are resolved when they
are first used, so that `import styx` costs next to nothing. Read `client.py` next; the wire contract is in `styx.v1`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from styx.client import AsyncClient
    from styx.errors import Final, Retryable, StyxError
    from styx.models import Agent, LogChunk, Resources, RetryPolicy, Task, TaskSpec, TaskState, TaskStatus
    from styx.sync import Client

__version__ = "0.1.0"

__all__ = [
    "Agent",
    "AsyncClient",
    "Client",
    "Final",
    "LogChunk",
    "Resources",
    "RetryPolicy",
    "Retryable",
    "StyxError",
    "Task",
    "TaskSpec",
    "TaskState",
    "TaskStatus",
    "__version__",
]

_HOMES = {
    "AsyncClient": "client",
    "Client": "sync",
    "Final": "errors",
    "Retryable": "errors",
    "StyxError": "errors",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'styx' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"styx.{_HOMES.get(name, 'models')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
