"""Reading from and writing to a stream of gRPC without its traps.

A read or a write that is cancelled kills the stream, and a stream that has died says so in many ways; here there is
one: `SessionOver`. Next: `session.py` and `logs.py`, which have one reader and one writer each.
"""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from styx.wire_errors import reason_of
from styx_agent.errors import AgentRemoved

_STALL_SECONDS = 15.0


class SessionOver(Exception):
    """This stream is of no use any more; a new one has to be opened.

    Attributes:
        code: what gRPC says about it; None: it was our own decision.
    """

    def __init__(self, reason: str, code: grpc.StatusCode | None = None) -> None:
        super().__init__(reason)
        self.code = code


async def read_or_raise(call: Any) -> Any:
    """The next message.

    Raises:
        SessionOver: there is none.
        AgentRemoved: and there will never be one.
    """
    try:
        message = await call.read()
    except grpc.aio.AioRpcError as error:
        raise _over(error) from None
    except (asyncio.InvalidStateError, grpc.aio.UsageError, grpc.aio.InternalError) as error:
        raise SessionOver(str(error)) from None
    if message is grpc.aio.EOF:
        code = await call.code()
        raise SessionOver(await call.details() or f"closed by the server ({code.name})", code)
    return message


async def write_or_raise(call: Any, message: Any) -> None:
    """Sends a message. One that the other side does not take for a while ends the stream.

    Raises:
        SessionOver: it could not be sent.
        AgentRemoved: and nothing ever will be.
    """
    try:
        async with asyncio.timeout(_STALL_SECONDS):
            await call.write(message)
    except TimeoutError:
        raise SessionOver("the server does not read") from None
    except grpc.aio.AioRpcError as error:
        raise _over(error) from None
    except (asyncio.InvalidStateError, grpc.aio.UsageError, grpc.aio.InternalError) as error:
        if not call.done():
            raise SessionOver(str(error)) from None
        text = await call.details() or str(error)
        raise _why(text, await call.code(), await call.trailing_metadata()) from None


def _over(error: grpc.aio.AioRpcError) -> SessionOver | AgentRemoved:
    return _why(error.details() or error.code().name, error.code(), error.trailing_metadata())


def _why(text: str, code: grpc.StatusCode, metadata: Any) -> SessionOver | AgentRemoved:
    return AgentRemoved(text) if reason_of(metadata) == "AGENT_REMOVED" else SessionOver(text, code)


def first_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The most telling one of what went wrong at once in a task group: a stream that died is the least.

    A task group that is cancelled while its tasks fail raises the failures and drops the cancellation; whoever asked
    for it would wait for ever, so it comes first here.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        return asyncio.CancelledError()
    leaves = [first_cause(error) if isinstance(error, BaseExceptionGroup) else error for error in group.exceptions]
    return min(leaves, key=lambda error: isinstance(error, SessionOver))
