"""The one door: every call of every service comes through here, and what is not named here is refused.

The table is keyed by the full method name; a test walks all registered methods and fails on one that is missing.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from contextvars import ContextVar
from enum import Enum
from typing import Any, Final

import grpc

from styx_server.core.errors import Denied, Unauthenticated, Unavailable
from styx_server.services.access import Access, Caller, Role
from styx_server.services.health import Health
from styx_server.store.lanes import serving_call
from styx_server.transport.errors import abort


class Door(Enum):
    """Who may call a method."""

    EVERYBODY = "everybody"
    PEOPLE = "people"
    AGENTS = "agents"


_STYX = "/styx.v1.StyxService/"
_AGENT = "/styx.agent.v1.AgentService/"
_HEALTH = "/grpc.health.v1.Health/"

METHODS: Final[dict[str, Door]] = {
    **{
        _STYX + name: Door.PEOPLE
        for name in (
            "SubmitTask",
            "SubmitTasks",
            "GetTask",
            "GetStatus",
            "ListTasks",
            "WatchTasks",
            "CancelTasks",
            "RetryTask",
            "StreamLogs",
            "ListAgents",
            "GetAgent",
            "DrainAgent",
            "RemoveAgent",
            "CreateJoinToken",
            "CreatePool",
            "GetPool",
            "UpdatePool",
            "ListPools",
            "DeletePool",
            "ListInstances",
            "GetInstance",
            "TerminateInstance",
            "ListOffers",
            "ListGpus",
            "CheckProviders",
            "PlanTasks",
            "RefreshCatalog",
            "ImportCatalog",
            "GetCost",
            "SetBudget",
            "ListBudgets",
            "DeleteBudget",
            "SetRenting",
            "GetServerInfo",
        )
    },
    # A stranger has no token yet: Join checks the join token inside.
    _AGENT + "Join": Door.EVERYBODY,
    _AGENT + "Session": Door.AGENTS,
    _AGENT + "PushLogs": Door.AGENTS,
    # Probes of load balancers and Kubernetes cannot send a token; the answer says only "serving" or not.
    _HEALTH + "Check": Door.EVERYBODY,
    _HEALTH + "Watch": Door.EVERYBODY,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Door.PEOPLE,
    "/grpc.channelz.v1.Channelz/GetTopChannels": Door.PEOPLE,
    "/grpc.channelz.v1.Channelz/GetServers": Door.PEOPLE,
    "/grpc.channelz.v1.Channelz/GetServer": Door.PEOPLE,
    "/grpc.channelz.v1.Channelz/GetServerSockets": Door.PEOPLE,
    "/grpc.channelz.v1.Channelz/GetChannel": Door.PEOPLE,
    "/grpc.channelz.v1.Channelz/GetSubchannel": Door.PEOPLE,
    "/grpc.channelz.v1.Channelz/GetSocket": Door.PEOPLE,
}

_ROLES: Final = {Door.PEOPLE: Role.ADMIN, Door.AGENTS: Role.AGENT}

caller_of_call: ContextVar[Caller] = ContextVar("caller")
"""Who makes the call that is being served."""

_ANSWER_SECONDS: Final = 6.0
"""A caller hears that the database does not answer, or is too slow, after about this long."""

_MAKERS: Final = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


class Guard(grpc.aio.ServerInterceptor):
    """Lets good callers through, and turns exceptions of handlers into statuses.

    Args:
        on_call: told of each call that ends, with the method and `ok` or the reason of the error.
    """

    def __init__(self, access: Access, health: Health, on_call: Callable[[str, str], None]) -> None:
        self._access = access
        self._health = health
        self._on_call = on_call

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wraps the handler of a method, whatever its kind."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        authorization = next(
            (value for key, value in handler_call_details.invocation_metadata if key == "authorization"), ""
        )
        inner = handler.stream_stream or handler.unary_stream or handler.stream_unary or handler.unary_unary
        kind = (handler.request_streaming, handler.response_streaming)
        # A generator answers with what it yields; a coroutine with what it returns, or by writing to its context.
        if inspect.isasyncgenfunction(inner):
            served = self._generator(inner, method, str(authorization))
        else:
            served = self._coroutine(inner, method, str(authorization), streams=any(kind))
        return _MAKERS[kind](
            served,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    def _coroutine(
        self, inner: Callable[..., Awaitable[Any]], method: str, authorization: str, *, streams: bool
    ) -> Callable[..., Any]:
        async def serve(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            try:
                serving_call.set(True)
                async with _soon():
                    await self._admit(method, authorization)
                    answer = None if streams else await inner(request, context)
                if streams:
                    answer = await inner(request, context)
            except Exception as error:  # noqa: BLE001 - the outermost handler
                await self._fail(context, error, method)
                return None
            self._on_call(method, "ok")
            return answer

        return serve

    def _generator(
        self, inner: Callable[..., AsyncGenerator[Any, None]], method: str, authorization: str
    ) -> Callable[..., Any]:
        async def serve(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
            try:
                serving_call.set(True)
                async with _soon():
                    await self._admit(method, authorization)
                async with aclosing(inner(request, context)) as answers:
                    async for answer in answers:
                        yield answer
            except (asyncio.CancelledError, GeneratorExit):
                self._on_call(method, "left")
                raise
            except Exception as error:  # noqa: BLE001 - the outermost handler
                await self._fail(context, error, method)
            else:
                self._on_call(method, "ok")

        return serve

    async def _admit(self, method: str, authorization: str) -> None:
        door = METHODS.get(method)
        if door is None:
            raise Denied(f"{method} is open to nobody")
        if self._health.stopping:
            raise Unavailable("this server is stopping; try again, on another one", reason="SERVER_STOPPING")
        if door is Door.EVERYBODY:
            return
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthenticated("the call has no token; send the metadata `authorization: Bearer <token>`")
        caller = await self._access.authenticate(token)
        if caller.role is not _ROLES[door]:
            raise Denied(f"{method} is for {door.value}; this token is of another kind")
        caller_of_call.set(caller)

    async def _fail(self, context: grpc.aio.ServicerContext[Any, Any], error: Exception, method: str) -> None:
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        if isinstance(error, grpc.aio.AbortError):
            raise error
        self._on_call(method, getattr(error, "reason", "INTERNAL_ERROR"))
        await abort(context, error, method)


@asynccontextmanager
async def _soon() -> AsyncIterator[None]:
    """A bound on how long a caller waits while the database does not answer."""
    limit = asyncio.timeout(_ANSWER_SECONDS)
    try:
        async with limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        raise Unavailable(f"the database did not answer within {_ANSWER_SECONDS:g} s; try again") from None
