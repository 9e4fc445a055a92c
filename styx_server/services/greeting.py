"""The database's side of opening a session: a new epoch, and one view of what an agent holds.

`sessions.py` does the rest: it acts on what is found here, and lets work come.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

import structlog

from styx_server.core.errors import NotFound, Superseded
from styx_server.core.lease import USUAL_TERMS, LeaseTerms
from styx_server.core.session import (
    Action,
    EndedAttempt,
    Hello,
    LiveAttempt,
    LogStream,
    Reconciliation,
    reconcile,
)
from styx_server.core.states import AttemptState, Desired
from styx_server.core.task import AgentId, Fence, TaskId
from styx_server.services.access import removed_agent
from styx_server.services.session_registry import Known
from styx_server.store.database import Database, Row
from styx_server.store.rows import capacity_to_json

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """An agent that has a new epoch.

    Attributes:
        same_boot: whether its machine has not restarted since its last session.
    """

    epoch: int
    same_boot: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciled:
    """One view of what an agent holds.

    Attributes:
        known: what the new session is responsible for.
    """

    found: Reconciliation
    known: dict[Fence, Known]


class Greeting:
    """Opens sessions in the database, for one server process."""

    def __init__(self, database: Database, replica_id: UUID, terms: LeaseTerms = USUAL_TERMS) -> None:
        self._database = database
        self._unreachable_seconds = terms.unreachable_seconds
        self._replica_id = replica_id

    async def enter(self, hello: Hello) -> Entry:
        """Gives the agent a new epoch and stores what it says of itself.

        Raises:
            NotFound: there is no such agent, as after a database was restored.
            Unauthenticated: it was removed.
            Superseded: another program with its identity is connected to another server.
        """
        async with self._database.transaction() as transaction:
            before = await transaction.fetch_row(
                "lock_lease", agent_id=hello.agent_id, seconds=self._unreachable_seconds
            )
            if before is None:
                raise NotFound(f"agent a{hello.agent_id} is not known any more; join again", reason="AGENT_NOT_FOUND")
            if before["removed"]:
                raise removed_agent(hello.agent_id)
            other = before["supervisor_id"] not in ("", hello.supervisor_id)
            if other and before["heard"] and before["replica_id"] != self._replica_id:
                raise cloned(hello.agent_id, before["epoch"])
            row = await transaction.fetch_row(
                "open_session",
                agent_id=hello.agent_id,
                last_epoch=hello.last_epoch,
                replica_id=self._replica_id,
                boot_id=hello.boot_id,
                supervisor_id=hello.supervisor_id,
                leaving=hello.draining,
                now=None,
            )
            await transaction.execute(
                "update_agent",
                id=hello.agent_id,
                labels=dict(hello.labels),
                capacity=capacity_to_json(hello.capacity),
                facts=dict(hello.facts),
                isolation=hello.isolation,
                version=hello.version,
                queues=hello.queues,
            )
            assert row is not None
            return Entry(epoch=row["epoch"], same_boot=before["boot_id"] in ("", hello.boot_id))

    async def reconcile(self, hello: Hello, entry: Entry) -> Reconciled:
        """Holds what the agent holds against what is stored for it."""
        live = await self._database.fetch("live_attempts_of", agent_ids=[hello.agent_id])
        held = await self._database.fetch(
            "read_held",
            task_ids=[item.task_id for item in hello.held],
            fences=[item.fence for item in hello.held],
        )
        own = [row for row in held if row["ended_agent_id"] == hello.agent_id]
        ended = [
            EndedAttempt(task_id=TaskId(row["task_id"]), fence=Fence(row["fence"]), attempt=row["ended_number"])
            for row in own
        ]
        positions = await self._positions([item.task_id for item in hello.held])
        found = reconcile(
            hello.held,
            [_live(row) for row in live],
            ended,
            positions,
            same_boot=entry.same_boot,
        )
        kept = {verdict.fence: verdict for verdict in found.verdicts if verdict.action is not Action.FORGET}
        # Whose output a fence may bring is what is stored of it, not what the agent says.
        stored = {row["fence"]: (TaskId(row["id"]), int(row["attempt"])) for row in live}
        stored |= {row["fence"]: (TaskId(row["task_id"]), int(row["ended_number"])) for row in own}
        known = {fence: Known(*stored[fence], verdict.stop) for fence, verdict in kept.items()}
        return Reconciled(found=found, known=known)

    async def _positions(self, task_ids: list[TaskId]) -> Mapping[Fence, tuple[tuple[LogStream, int], ...]]:
        positions: dict[Fence, tuple[tuple[LogStream, int], ...]] = {}
        for row in await self._database.fetch("get_streams_by_task", task_ids=task_ids):
            fence = Fence(row["fence"])
            positions[fence] = (*positions.get(fence, ()), (LogStream(row["stream"]), row["stored_bytes"]))
        return positions


def cloned(agent_id: AgentId, epoch: int) -> Superseded:
    """Two programs with one identity would each have the other's attempts called dead."""
    _log.error("agent_cloned", agent=agent_id, epoch=epoch)
    return Superseded(
        f"another program with the identity of agent a{agent_id} is connected; was its data folder or "
        "its machine copied? Start this one with a data folder of its own and a new join token"
    )


def _live(row: Row) -> LiveAttempt:
    grace = row["stop_grace_ms"]
    return LiveAttempt(
        task_id=TaskId(row["id"]),
        fence=Fence(row["fence"]),
        attempt=row["attempt"],
        state=AttemptState(row["attempt_state"]),
        desired=Desired(row["desired"]),
        stop_grace_seconds=None if grace is None else grace / 1000,
        preempt=row["stop_cause"] is not None,
    )
