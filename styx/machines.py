"""What a client can ask about agents, and how they join. Pools and rented machines are in `renting.py`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from datetime import timedelta

from styx import clock, ids, names, wire
from styx.calls import Caller
from styx.models import Agent, AgentPage, JoinToken
from styx.names import Id
from styx.v1 import styx_service_pb2 as pb

_LOOK_AGAIN_SECONDS = 1.0


class AgentMethods:
    """List, look at, drain, remove; make join tokens."""

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

    async def drain_agent(
        self, agent_id: Id, *, deadline: timedelta | None = None, undo: bool = False, request_id: str | None = None
    ) -> Agent:
        """Takes an agent out of service, or with `undo` back in.

        Args:
            agent_id: for example `a3`.
            deadline: that long from now, what still runs there is stopped and its task runs elsewhere; a task with
                `at_most_once` ends as LOST. None: what runs there may end by itself.
            undo: back into service.
            request_id: made here when not given.

        Raises:
            AgentNotFound: there is none with this id.
            InvalidRequest: the deadline is out of bounds, or goes with `undo`.
        """
        request = pb.DrainAgentRequest(
            agent_id=names.agent_id(agent_id), undo=undo, request_id=request_id or ids.request_id()
        )
        if deadline is not None:
            request.deadline.FromTimedelta(deadline)
        return wire.from_message(Agent, await self._caller.unary("DrainAgent", request))

    async def watch_agent_empty(self, agent_id: Id) -> AsyncGenerator[Agent, None]:
        """Yields an agent whenever what runs there has changed; ends when nothing does any more.

        Raises:
            AgentNotFound: there is none with this id, or it was removed meanwhile.
        """
        shown: tuple[object, ...] | None = None
        while True:
            agent = await self.agent(agent_id)
            now = (agent.attempt_count, *agent.task_ids)
            if now != shown:
                yield agent
            if not agent.attempt_count:
                return
            shown = now
            await clock.sleep(_LOOK_AGAIN_SECONDS)

    async def remove_agent(
        self, agent_id: Id, *, force: bool = False, lost: bool = False, request_id: str | None = None
    ) -> int:
        """Removes an agent for good; returns how many live attempts it still held.

        Args:
            agent_id: for example `a3`.
            force: though it holds live attempts; they end as those of a silent agent, by default after 16 minutes.
            lost: its machine is gone for good, so its attempts end as LOST at once. If it is not gone, they run twice
                at the same time.
            request_id: made here when not given.

        Raises:
            AgentNotFound: there was never one with this id.
            AgentInUse: it holds live attempts, or is said to be lost and was heard of a moment ago.
        """
        request = pb.RemoveAgentRequest(
            agent_id=names.agent_id(agent_id), force=force, lost=lost, request_id=request_id or ids.request_id()
        )
        response = await self._caller.unary("RemoveAgent", request)
        return int(response.attempt_count)

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
