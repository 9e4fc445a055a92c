"""What a client can ask about agents, and how they join."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from datetime import timedelta

from styx import ids, names, wire
from styx.calls import Caller
from styx.models import Agent, AgentPage, JoinToken
from styx.names import Id
from styx.v1 import styx_service_pb2 as pb


class AgentMethods:
    """List, look at, drain; make join tokens."""

    _caller: Caller

    async def agents(self) -> AsyncGenerator[Agent, None]:
        """Yields all agents by id; asks for pages as they are needed."""
        request = pb.ListAgentsRequest(page_size=1000)
        while True:
            page = wire.from_message(AgentPage, await self._caller.unary("ListAgents", request))
            for agent in page.agents:
                yield agent
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def agent(self, agent_id: Id) -> Agent:
        """One agent.

        Raises:
            AgentNotFound: there is none with this id.
        """
        request = pb.GetAgentRequest(agent_id=names.agent_id(agent_id))
        return wire.from_message(Agent, await self._caller.unary("GetAgent", request))

    async def drain_agent(self, agent_id: Id, *, undo: bool = False, request_id: str | None = None) -> Agent:
        """Takes an agent out of service, or with `undo` back in; what runs there goes on.

        Raises:
            AgentNotFound: there is none with this id.
        """
        request = pb.DrainAgentRequest(
            agent_id=names.agent_id(agent_id), undo=undo, request_id=request_id or ids.request_id()
        )
        return wire.from_message(Agent, await self._caller.unary("DrainAgent", request))

    async def create_join_token(
        self,
        *,
        max_uses: int = 1,
        ttl: timedelta | None = None,
        pool: str = "",
        labels: Mapping[str, str] | None = None,
        request_id: str | None = None,
    ) -> JoinToken:
        """Makes a token with which agents can join.

        Args:
            max_uses: how many agents may join with it.
            ttl: until when; None: 15 minutes.
            pool: the pool that they will serve; empty: `default`.
            labels: labels that they will carry, whatever they claim.
            request_id: made here when not given.

        Raises:
            InvalidRequest: a bound was passed.
        """
        request = pb.CreateJoinTokenRequest(
            request_id=request_id or ids.request_id(), max_uses=max_uses, pool=pool, labels=labels or {}
        )
        if ttl is not None:
            request.ttl.FromTimedelta(ttl)
        return wire.from_message(JoinToken, await self._caller.unary("CreateJoinToken", request))
