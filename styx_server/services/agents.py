"""Agents as operators see them, and how a stranger becomes one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum

from styx_server.clock import Clock
from styx_server.core.errors import NotFound, Unauthenticated
from styx_server.core.lease import USUAL_TERMS, LeaseTerms
from styx_server.core.placement.capacity import Capacity, Gpu, Reservation
from styx_server.core.placement.ledger import Ledger
from styx_server.core.task import AgentId
from styx_server.services.access import digest
from styx_server.services.scheduling import Scheduling
from styx_server.services.session_registry import SessionRegistry
from styx_server.services.tasks import Mutation, claim
from styx_server.store.database import Database, Row
from styx_server.store.rows import capacity_from_json


class AgentState(IntEnum):
    """Where an agent is in its life. Numbers are those of the wire."""

    READY = 1
    DRAINING = 2
    UNREACHABLE = 3
    OFFLINE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentView:
    """One agent as operators see it."""

    agent_id: AgentId
    name: str
    state: AgentState
    pool: str
    labels: Mapping[str, str]
    capacity: Capacity
    reserved: Capacity
    attempts: int
    version: str
    epoch: int
    create_time: datetime
    beat_time: datetime | None
    isolation: str
    facts: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJoinToken:
    """How agents may join."""

    token: str
    max_uses: int
    ttl: timedelta
    pool: str
    labels: Mapping[str, str]


class Agents:
    """Agents that have joined, and those that want to."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        scheduling: Scheduling,
        ledger: Ledger,
        registry: SessionRegistry,
        terms: LeaseTerms = USUAL_TERMS,
    ) -> None:
        self._database = database
        self._clock = clock
        self._scheduling = scheduling
        self._ledger = ledger
        self._registry = registry
        self._unreachable_seconds = terms.unreachable_seconds

    async def page(self, after: int, count: int) -> list[AgentView]:
        """Up to `count` agents with ids above `after`."""
        rows = await self._database.fetch("list_agents", after=after, count=count, ids=None)
        return [self._view(row) for row in rows]

    async def get(self, agent_id: AgentId) -> AgentView:
        """One agent.

        Raises:
            NotFound: there is none with this id.
        """
        row = await self._database.fetch_row("list_agents", after=0, count=1, ids=[agent_id])
        if row is None:
            raise _missing(agent_id)
        return self._view(row)

    async def drain(self, agent_id: AgentId, mutation: Mutation, *, draining: bool) -> AgentView:
        """Takes an agent out of service, or back in; what runs there goes on.

        Raises:
            NotFound: there is none with this id.
            Conflict: the request id was used for something else.
        """
        async with self._database.transaction() as transaction:
            first = await claim(transaction, mutation)
            changed = await transaction.fetch("set_draining", id=agent_id, draining=draining) if first else [None]
            if not changed:
                raise _missing(agent_id)
        session = self._registry.get(agent_id)
        if first and session is not None:
            session.drained = draining
            self._scheduling.set_accepting(agent_id, session.accepting)
        return await self.get(agent_id)

    async def make_join_token(self, wanted: NewJoinToken, mutation: Mutation) -> datetime:
        """Stores a join token; returns when it expires. The same token again changes nothing.

        Raises:
            Conflict: the request id was used for something else.
        """
        async with self._database.transaction() as transaction:
            await claim(transaction, mutation)
            row = await transaction.fetch_row(
                "insert_token",
                kind="join",
                digest=digest(wanted.token),
                expire_time=self._clock.now() + wanted.ttl,
                max_uses=wanted.max_uses,
                pool=wanted.pool,
                labels=dict(wanted.labels),
            )
            row = row or await transaction.fetch_row("get_token_by_digest", digest=digest(wanted.token))
            assert row is not None
            expire_time: datetime = row["expire_time"]
            return expire_time

    async def join(self, join_token: str, name: str, key_digest: bytes, version: str) -> AgentId:
        """Makes a stranger an agent; the same token and key again give the same agent.

        Raises:
            Unauthenticated: the token is unknown, used up or expired.
        """
        async with self._database.transaction() as transaction:
            token_digest = digest(join_token)
            token = await transaction.fetch_row("lock_join_token", digest=token_digest, now=None)
            # Under the lock: the same stranger may have called twice at once.
            known = await transaction.fetch_row("find_joined_agent", key_digest=key_digest, token_digest=token_digest)
            if known is not None:
                return AgentId(known["id"])
            if token is None:
                raise Unauthenticated(
                    "the join token is unknown, used up or expired; make a new one with `styx agent join`",
                    reason="JOIN_TOKEN_INVALID",
                )
            row = await transaction.fetch_row(
                "insert_agent",
                name=name,
                key_digest=key_digest,
                join_token_id=token["id"],
                pool=token["pool"],
                labels=token["labels"],
                version=version,
            )
            if row is None:
                raise Unauthenticated(
                    "this key has joined before with another token; remove the agent's data folder and join again",
                    reason="JOIN_TOKEN_INVALID",
                )
            await transaction.execute("use_join_token", id=token["id"])
            return AgentId(row["id"])

    def _view(self, row: Row) -> AgentView:
        agent_id = AgentId(row["id"])
        held = self._ledger.held_on(agent_id)
        capacity = capacity_from_json(row["capacity"])
        session = self._registry.get(agent_id)
        return AgentView(
            agent_id=agent_id,
            name=row["name"],
            state=self._state(row, draining=bool(row["draining"] or (session and session.draining))),
            pool=row["pool"],
            labels=row["labels"],
            capacity=capacity,
            reserved=_sum(held, capacity.gpus),
            attempts=len(held),
            version=row["version"],
            epoch=row["epoch"],
            create_time=row["create_time"],
            beat_time=row["beat_time"],
            isolation=row["isolation"],
            facts=row["facts"],
        )

    def _state(self, row: Row, *, draining: bool) -> AgentState:
        if row["said_goodbye"]:
            return AgentState.OFFLINE
        if not row["connected"] or row["beat_age_seconds"] > self._unreachable_seconds:
            return AgentState.UNREACHABLE
        return AgentState.DRAINING if draining else AgentState.READY


def _sum(held: Sequence[Reservation], gpus: Sequence[Gpu]) -> Capacity:
    taken = {index for reservation in held for index in reservation.gpu_indexes}
    return Capacity(
        cpus_milli=sum(reservation.resources.cpus_milli for reservation in held),
        memory_bytes=sum(reservation.resources.memory_bytes for reservation in held),
        disk_bytes=sum(reservation.resources.disk_bytes for reservation in held),
        gpus=tuple(gpu for gpu in gpus if gpu.index in taken),
    )


def _missing(agent_id: AgentId) -> NotFound:
    text = f"there is no agent a{agent_id}; see `styx agent list`"
    return NotFound(text, reason="AGENT_NOT_FOUND", agent_id=f"a{agent_id}")
