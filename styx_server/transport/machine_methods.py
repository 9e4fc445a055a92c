"""The part of the public service that is about machines: see agents, drain and remove them, let new ones join."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

import grpc

from styx.v1 import agents_pb2, styx_service_pb2
from styx_server.core.errors import InvalidRequest, Violation
from styx_server.core.limits import check_labels, check_slug
from styx_server.core.task import DEFAULT_POOL
from styx_server.ids import new_secret
from styx_server.services.access import DEFAULT_JOIN_TTL, MAX_JOIN_TTL, derive_secret
from styx_server.services.agents import Agents, NewJoinToken
from styx_server.services.removal import HowToRemove, Removal
from styx_server.services.tasks import Mutation
from styx_server.transport import codec
from styx_server.transport.auth import caller_of_call
from styx_server.transport.mutations import mutation_fields
from styx_server.transport.paging import make_token, page_size, read_token

_Context = grpc.aio.ServicerContext[Any, Any]

_MAX_JOIN_USES: Final = 10_000
_MAX_DEADLINE: Final = timedelta(days=365)


class MachineMethods:
    """Methods of `styx.v1.StyxService`."""

    _agents: Agents
    _removal: Removal

    async def ListAgents(  # noqa: N802
        self, request: styx_service_pb2.ListAgentsRequest, context: _Context
    ) -> styx_service_pb2.ListAgentsResponse:
        """A page of agents, by id."""
        del context
        count = page_size(request.page_size)
        views = await self._agents.page(read_token(request.page_token, "agents") or 0, count)
        token = make_token(views[-1].agent_id, "agents") if len(views) == count else ""
        return styx_service_pb2.ListAgentsResponse(agents=[codec.agent(view) for view in views], next_page_token=token)

    async def GetAgent(  # noqa: N802
        self, request: styx_service_pb2.GetAgentRequest, context: _Context
    ) -> agents_pb2.Agent:
        """One agent."""
        del context
        return codec.agent(await self._agents.get(codec.agent_id(request.agent_id)))

    async def DrainAgent(  # noqa: N802
        self, request: styx_service_pb2.DrainAgentRequest, context: _Context
    ) -> agents_pb2.Agent:
        """Takes an agent out of service, or back in."""
        del context
        mutation = Mutation(**mutation_fields(request, "DrainAgent"))
        agent_id = codec.agent_id(request.agent_id)
        deadline = _deadline(request)
        view = await self._agents.drain(agent_id, mutation, draining=not request.undo, deadline=deadline)
        return codec.agent(view)

    async def RemoveAgent(  # noqa: N802
        self, request: styx_service_pb2.RemoveAgentRequest, context: _Context
    ) -> styx_service_pb2.RemoveAgentResponse:
        """Removes an agent for good."""
        del context
        mutation = Mutation(**mutation_fields(request, "RemoveAgent"))
        how = HowToRemove(force=request.force, lost=request.lost)
        held = await self._removal.remove(codec.agent_id(request.agent_id), mutation, how)
        return styx_service_pb2.RemoveAgentResponse(attempt_count=held)

    async def CreateJoinToken(  # noqa: N802
        self, request: styx_service_pb2.CreateJoinTokenRequest, context: _Context
    ) -> styx_service_pb2.JoinToken:
        """Makes a token with which agents can join."""
        del context
        wanted = _join_token(request)
        expire_time = await self._agents.make_join_token(
            wanted, Mutation(**mutation_fields(request, "CreateJoinToken"))
        )
        return styx_service_pb2.JoinToken(token=wanted.token, expire_time=codec.timestamp(expire_time))


def _deadline(request: styx_service_pb2.DrainAgentRequest) -> timedelta | None:
    seconds = codec.duration_seconds(request, "deadline")
    if seconds is None:
        return None
    if request.undo:
        raise InvalidRequest([Violation(field="deadline", description="goes with a drain, not with undo")])
    if not 0 <= seconds <= _MAX_DEADLINE.total_seconds():
        raise InvalidRequest([Violation(field="deadline", description=f"is {seconds:g} s, must be 0 to 365 days")])
    return timedelta(seconds=seconds)


def _join_token(request: styx_service_pb2.CreateJoinTokenRequest) -> NewJoinToken:
    seconds = codec.duration_seconds(request, "ttl")
    if seconds is not None and not 0 < seconds <= MAX_JOIN_TTL.total_seconds():
        raise InvalidRequest([Violation(field="ttl", description="must be more than 0 and at most 365 days")])
    if not 0 <= request.max_uses <= _MAX_JOIN_USES:
        raise InvalidRequest([Violation(field="max_uses", description=f"must be 0 to {_MAX_JOIN_USES:,}")])
    if request.pool:
        check_slug("pool", request.pool)
    check_labels("labels", dict(request.labels))
    # With a request id the secret follows from it and the caller's own token, so a repeated request gets the same one.
    request_id = request.request_id
    secret = derive_secret(caller_of_call.get(), f"join {request_id}") if request_id else new_secret()
    return NewJoinToken(
        token=f"styx_join_{secret}",
        max_uses=request.max_uses or 1,
        ttl=DEFAULT_JOIN_TTL if seconds is None else timedelta(seconds=seconds),
        pool=request.pool or DEFAULT_POOL,
        labels=dict(request.labels),
    )
