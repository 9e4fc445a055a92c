"""Agents as operators see them, and how a stranger becomes one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Final

import structlog

from styx_server.clock import Clock
from styx_server.core.errors import NotFound, Unauthenticated
from styx_server.core.lease import USUAL_TERMS, LeaseTerms
from styx_server.core.placement.capacity import Capacity, Gpu
from styx_server.core.task import AgentId, Resources, TaskId
from styx_server.services.access import digest
from styx_server.services.shapes import Shapes
from styx_server.services.tasks import Mutation, claim
from styx_server.store.database import Database, Row, Transaction
from styx_server.store.rows import capacity_from_json

_log = structlog.get_logger()

_TASKS_SHOWN: Final = 100


class AgentState(IntEnum):
    """Where an agent is in its life. Numbers are those of the wire."""

    READY = 1
    DRAINING = 2
    UNREACHABLE = 3
    OFFLINE = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentView:
    """One agent as operators see it.

    Attributes:
        attempts: how many live attempts it holds.
        drain_deadline: from then on what still runs there is stopped.
        task_ids: the first of the tasks that run there; only when one agent was asked for.
    """

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
    drain_deadline: datetime | None
    task_ids: tuple[TaskId, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NewJoinToken:
    """How agents may join."""

    token: str
    max_uses: int
    ttl: timedelta
    pool: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """What one live attempt holds of its agent."""

    resources: Resources
    gpu_indexes: Sequence[int]


class Agents:
    """Agents that have joined, and those that want to.

    Args:
        on_change: told of agents whose standing an operator changed.
    """

    def __init__(
        self,
        database: Database,
        shapes: Shapes,
        clock: Clock,
        *,
        on_change: Callable[[Iterable[AgentId]], None],
        terms: LeaseTerms = USUAL_TERMS,
    ) -> None:
        self._database = database
        self._shapes = shapes
        self._clock = clock
        self._on_change = on_change
        self._joins = asyncio.Semaphore(1)
        self._unreachable_seconds = terms.unreachable_seconds

    async def page(self, after: int, count: int) -> list[AgentView]:
        """Up to `count` agents with ids above `after`."""
        return await self._views(await self._database.fetch("list_agents", after=after, count=count, ids=None))

    async def get(self, agent_id: AgentId) -> AgentView:
        """One agent.

        Raises:
            NotFound: there is none with this id.
        """
        views = await self._views(await self._database.fetch("list_agents", after=0, count=1, ids=[agent_id]))
        if not views:
            raise _missing(agent_id)
        held = await self._database.fetch("tasks_on_agent", agent_id=agent_id, count=_TASKS_SHOWN)
        return replace(views[0], task_ids=tuple(TaskId(item["task_id"]) for item in held))

    async def drain(
        self, agent_id: AgentId, mutation: Mutation, *, draining: bool, deadline: timedelta | None = None
    ) -> AgentView:
        """Takes an agent out of service, or back in; what runs there goes on, at most until the deadline.

        Args:
            agent_id: which.
            mutation: whose request this is.
            draining: out of service, or back in.
            deadline: how long from now what runs there may go on; None: until it ends.

        Raises:
            NotFound: there is none with this id.
            Conflict: the request id was used for something else.
        """
        async with self._database.transaction() as transaction:
            first = await claim(transaction, mutation)
            changed: Sequence[object] = [None]
            if first:
                wish = {"draining": draining, "deadline": deadline, "now": None}
                changed = await transaction.fetch("set_draining", id=agent_id, **wish)
            if not changed:
                raise _missing(agent_id)
        self._on_change([agent_id])
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
        # In turns: all who have one token wait for its row, and each would keep a connection to the database meanwhile.
        async with self._joins, self._database.transaction() as transaction:
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
            if token["instance_id"] is not None:
                await _move_in(transaction, token["instance_id"], row["id"])
            return AgentId(row["id"])

    async def _views(self, rows: Sequence[Row]) -> list[AgentView]:
        held: dict[int, list[_Held]] = {}
        live = await self._database.fetch("live_attempts_of", agent_ids=[row["id"] for row in rows]) if rows else []
        for row in live:
            shape = await self._shapes.get(row["shape_id"])
            resources = shape.choices[row["alternative"] or 0].resources
            held.setdefault(row["agent_id"], []).append(
                _Held(resources=resources, gpu_indexes=row["gpu_indexes"] or ())
            )
        return [_view(row, held.get(row["id"], []), self._unreachable_seconds) for row in rows]


async def _move_in(transaction: Transaction, instance_id: int, agent_id: int) -> None:
    """The agent of a rented machine has come."""
    if await transaction.fetch_row("join_instance", id=instance_id, agent_id=agent_id) is None:
        raise Unauthenticated(
            f"instance i{instance_id} is being given back, or has an agent already; end this machine",
            reason="JOIN_TOKEN_INVALID",
        )
    _log.info("machine_joined", instance=instance_id, agent=agent_id)


def _view(row: Row, held: Sequence[_Held], unreachable_seconds: float) -> AgentView:
    capacity = capacity_from_json(row["capacity"])
    return AgentView(
        agent_id=AgentId(row["id"]),
        name=row["name"],
        state=_state(row, unreachable_seconds),
        pool=row["pool"],
        labels=row["labels"],
        capacity=capacity,
        reserved=_sum(held, capacity.gpus),
        attempts=row["attempts"],
        version=row["version"],
        epoch=row["epoch"],
        create_time=row["create_time"],
        beat_time=row["beat_time"],
        isolation=row["isolation"],
        facts=row["facts"],
        drain_deadline=row["drain_deadline"],
    )


def _state(row: Row, unreachable_seconds: float) -> AgentState:
    if row["said_goodbye"]:
        return AgentState.OFFLINE
    if not row["connected"] or row["beat_age_seconds"] > unreachable_seconds:
        return AgentState.UNREACHABLE
    return AgentState.DRAINING if row["draining"] or row["leaving"] else AgentState.READY


def _sum(held: Sequence[_Held], gpus: Sequence[Gpu]) -> Capacity:
    taken = {index for item in held for index in item.gpu_indexes}
    return Capacity(
        cpus_milli=sum(item.resources.cpus_milli for item in held),
        memory_bytes=sum(item.resources.memory_bytes for item in held),
        disk_bytes=sum(item.resources.disk_bytes for item in held),
        gpus=tuple(gpu for gpu in gpus if gpu.index in taken),
    )


def _missing(agent_id: AgentId) -> NotFound:
    text = f"there is no agent a{agent_id}; see `styx agent list`"
    return NotFound(text, reason="AGENT_NOT_FOUND", agent_id=f"a{agent_id}")
