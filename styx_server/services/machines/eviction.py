"""What follows when an agent says that its machine is taken back: no new work, and its tasks are to go on elsewhere.

The agent has told them to stop already, and did not wait for this. Any server does it, for the agents whose sessions it
holds; when nothing runs there any more the leader gives the machine back (`scaling.py`). Next: `sweeping.py`, for
machines that went without a word.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import structlog

from styx_server.core.machines.offer import Place
from styx_server.core.session import PreemptionNotice
from styx_server.core.task import AgentId
from styx_server.services.machines.ends import PREEMPTED
from styx_server.services.machines.renting import Memory
from styx_server.store.database import Database

_log = structlog.get_logger()


class Eviction:
    """Takes notices.

    Args:
        memory: what remembers where machines were taken back.
        on_agents: told of agents that were taken out of service, and of which attempts are to stop now.
    """

    def __init__(
        self,
        database: Database,
        memory: Memory,
        on_agents: Callable[[Iterable[AgentId]], None],
    ) -> None:
        self._database = database
        self._memory = memory
        self._on_agents = on_agents

    async def take(self, agent_id: AgentId, notice: PreemptionNotice) -> None:
        """The machine of an agent goes. May come again, through a later session.

        Raises:
            Unavailable: the database is away; nothing is lost, for the agent says it again.
        """
        message = f"the provider takes it back in {notice.left_seconds:.0f} s"
        row = await self._database.fetch_row(
            "evict_instance", agent_id=agent_id, reason=PREEMPTED, message=message, seconds=notice.left_seconds
        )
        # An agent that was not rented is back in service with its next session, so its row is left alone.
        marked = await self._database.fetch("preempt_live", agent_ids=[agent_id])
        if marked or (row is not None and row["fresh"]):
            _log.warning(
                "preemption_noticed",
                agent=agent_id,
                source=notice.source,
                left_seconds=round(notice.left_seconds, 1),
                attempts=len(marked),
            )
        self._on_agents([agent_id])
        if row is not None:  # also when that is known: whoever stored it may have got no further
            await self._memory.preempted(Place(provider=row["provider"], region=row["region"], zone=row["zone"]))
