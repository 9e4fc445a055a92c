"""Removes agents: from then on nothing that they say is taken, on any server.

The database fences a removed agent in the commit itself: its epoch moves on, so beats, starts and assignments under the
old one find no row. Ending its streams is only courtesy, and what tells the agent to stop everything. Other servers
learn of it in `loops/retire.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog

from styx_server.core.errors import NotFound, WrongState
from styx_server.core.lease import USUAL_TERMS, LeaseTerms
from styx_server.core.states import OutcomeKind
from styx_server.core.task import AgentId, Fence, Outcome, TaskId
from styx_server.services.access import removed_agent
from styx_server.services.reports import Reports
from styx_server.services.session_registry import SessionRegistry
from styx_server.services.tasks import Mutation, claim
from styx_server.store.database import Database, Row

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class HowToRemove:
    """What is said about the attempts that an agent still holds.

    Attributes:
        force: remove it all the same; they end by the usual rules for a silent agent.
        lost: its machine is gone for good, so they are dead now. Nothing can check that.
    """

    force: bool = False
    lost: bool = False


class Removal:
    """Removes agents.

    Args:
        on_change: told of agents that were removed.
    """

    def __init__(
        self,
        database: Database,
        registry: SessionRegistry,
        reports: Reports,
        on_change: Callable[[Iterable[AgentId]], None],
        terms: LeaseTerms = USUAL_TERMS,
    ) -> None:
        self._unreachable_seconds = terms.unreachable_seconds
        self._database = database
        self._registry = registry
        self._reports = reports
        self._on_change = on_change

    async def remove(self, agent_id: AgentId, mutation: Mutation, how: HowToRemove) -> int:
        """Removes an agent for good; returns how many attempts it still held. It may be removed again.

        Raises:
            NotFound: there was never one with this id.
            WrongState: it holds attempts, or is said to be lost and was heard of.
            Conflict: the request id was used for something else.
        """
        async with self._database.transaction() as transaction:
            first = await claim(transaction, mutation)
            row = await transaction.fetch_row("lock_agent", id=agent_id)
            if row is None:
                text = f"there is no agent a{agent_id}; see `styx agent list`"
                raise NotFound(text, reason="AGENT_NOT_FOUND", agent_id=f"a{agent_id}")
            if first:
                _refuse(row, how, self._unreachable_seconds)
                await transaction.execute("revoke_agent", id=agent_id, now=None)
        self.dismiss(agent_id)
        self._on_change([agent_id])
        if first:
            _log.info("agent_removed", agent=agent_id, attempts=row["attempts"], lost=how.lost)
        # Of a repeated request too: the server may have died before it came this far.
        if how.lost:
            await self._lose(agent_id)
        return int(row["attempts"])

    def dismiss(self, agent_id: AgentId) -> None:
        """Ends what an agent that was removed has open on this server, and tells it why."""
        session = self._registry.get(agent_id)
        if session is not None:
            self._registry.remove(session)
            session.removed.set()
            session.outlet.end_with(removed_agent(agent_id))

    async def _lose(self, agent_id: AgentId) -> None:
        outcome = Outcome(kind=OutcomeKind.LOST, message=f"agent a{agent_id} was removed, its machine said to be gone")
        rows = await self._database.fetch("live_attempts_of", agent_ids=[agent_id])
        await self._reports.end_many(agent_id, [(TaskId(row["id"]), Fence(row["fence"]), outcome) for row in rows])


def _refuse(row: Row, how: HowToRemove, unreachable_seconds: float) -> None:
    name, age = f"a{row['id']}", row["beat_age_seconds"]
    if how.lost and age is not None and age <= unreachable_seconds:
        text = (
            f"agent {name} was heard of {age:.0f} s ago, so its machine is not gone; stop it and wait "
            f"{unreachable_seconds:.0f} s, or drain the agent with `styx agent drain {name} --deadline 0s --wait`"
        )
        raise WrongState(text, reason="AGENT_IN_USE", agent_id=name)
    if row["attempts"] and not (row["removed"] or how.force or how.lost):
        text = (
            f"agent {name} holds {row['attempts']} live attempts; drain it first with "
            f"`styx agent drain {name} --deadline 0s --wait`, or remove it with --force"
        )
        raise WrongState(text, reason="AGENT_IN_USE", agent_id=name, attempts=row["attempts"])
