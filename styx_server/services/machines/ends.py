"""The end of an instance, in steps that can each be repeated: out of service, fenced, given back, confirmed gone.

An agent is removed in the transaction that gives its machine back, so nothing that is assigned to it afterwards can
start. What still ran there is called over only when the provider says that the machine is gone: not before that is it
sure that it does not run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta

import structlog

from styx import failpoints
from styx_server.core.machines.instance import InstanceId, InstanceState
from styx_server.core.states import OutcomeKind
from styx_server.core.task import AgentId, Fence, Outcome, TaskId
from styx_server.services.removal import Removal
from styx_server.services.reports import Reports
from styx_server.store.database import Database, Row

_log = structlog.get_logger()

PREEMPTED = "preempted"
VANISHED = "vanished"


class Ends:
    """Ends instances.

    Args:
        on_agents: told of agents that were taken out of service or removed.
    """

    def __init__(
        self,
        database: Database,
        removal: Removal,
        reports: Reports,
        on_agents: Callable[[Iterable[AgentId]], None],
    ) -> None:
        self._database = database
        self._removal = removal
        self._reports = reports
        self._on_agents = on_agents

    async def drain(self, instance_id: InstanceId, reason: str, message: str, deadline: timedelta | None) -> bool:
        """Takes a machine out of service; False: it has no agent, or is leaving already.

        Args:
            instance_id: which.
            reason: a stable word.
            message: the same for people.
            deadline: what runs there is stopped after this long; None: when it ends by itself.
        """
        row = await self._database.fetch_row(
            "drain_instance", id=instance_id, reason=reason, message=message, deadline=deadline
        )
        if row is None:
            return False
        _log.info("machine_draining", instance=instance_id, reason=reason)
        self._on_agents([AgentId(row["agent_id"])])
        return True

    async def hasten(self, instance_id: InstanceId, deadline: timedelta) -> None:
        """What runs on a machine that is out of service, and may run until it ends, is stopped after this long."""
        await self._database.execute("hasten_drain", id=instance_id, deadline=deadline)

    async def give_back(
        self, instance_id: InstanceId, agent_id: AgentId | None, reason: str, message: str, *, force: bool = False
    ) -> bool:
        """Has a machine ended, whatever it takes; False: something runs there, or it is ending already.

        Args:
            instance_id: which.
            agent_id: its agent, if one has joined.
            reason: a stable word.
            message: the same for people.
            force: also when something runs there.
        """
        async with self._database.transaction() as transaction:
            if agent_id is not None:
                agent = await transaction.fetch_row("lock_agent", id=agent_id)
                if agent is None or (agent["attempts"] and not force):
                    return False
            row = await transaction.fetch_row("give_back", id=instance_id, reason=reason, message=message)
            if row is None:
                return False
            # It may have joined since the caller looked.
            agent_id = None if row["agent_id"] is None else AgentId(row["agent_id"])
            if agent_id is not None:
                await transaction.execute("revoke_agent", id=agent_id, now=None)
        _log.info("machine_given_back", instance=instance_id, reason=reason)
        if agent_id is not None:
            self._removal.dismiss(agent_id)
            self._on_agents([agent_id])
        return True

    async def confirm(self, row: Row, reason: str) -> None:
        """The provider has no such machine any more.

        Args:
            row: of `known_machines`.
            reason: as `core.machines.sweep.Gone` has it.
        """
        instance_id = InstanceId(row["id"])
        agent_id = None if row["agent_id"] is None else AgentId(row["agent_id"])
        if row["state"] != InstanceState.TERMINATING:
            message = _SAYINGS.get(reason, "the machine ended by itself")
            if not await self.give_back(instance_id, agent_id, reason, message, force=True):
                return
        # A list without it is not the provider's word that it runs no more: then the usual rules for silence hold.
        if agent_id is not None and reason != VANISHED:
            await self._end_attempts(agent_id, reason)
        await failpoints.reach("server.machine.ending")
        await self._database.fetch_row("confirm_end", id=instance_id)
        _log.info("machine_ended", instance=instance_id, reason=reason)

    async def _end_attempts(self, agent_id: AgentId, reason: str) -> None:
        kind = OutcomeKind.PREEMPTED if reason == PREEMPTED else OutcomeKind.LOST
        message = f"the machine of agent a{agent_id} is gone: {_SAYINGS.get(reason, 'it ended by itself')}"
        rows = await self._database.fetch("live_attempts_of", agent_ids=[agent_id])
        outcome = Outcome(kind=kind, message=message)
        await self._reports.end_many(agent_id, [(TaskId(row["id"]), Fence(row["fence"]), outcome) for row in rows])


_SAYINGS = {
    PREEMPTED: "the provider took the spot machine back",
    VANISHED: "the provider does not know it any more",
}
