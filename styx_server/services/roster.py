"""The leader's roll of agents: which of them may get work, and what their live attempts hold.

Read from the database, whichever server the sessions are on. An agent is silent for as long as its lease stood still
before this server's own eyes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

import structlog

from styx_server.clock import Clock
from styx_server.core.lease import USUAL_TERMS, LeaseTerms, LeaseWatch
from styx_server.core.placement.capacity import AgentSlots, Reservation, as_sold
from styx_server.core.placement.ledger import Ledger
from styx_server.core.placement.machine import machine_kind
from styx_server.core.states import AttemptState
from styx_server.core.task import AgentId, Fence
from styx_server.services.shapes import Shapes
from styx_server.store.database import Database, Row
from styx_server.store.rows import capacity_from_json, pool_says

_log = structlog.get_logger()

_PERIOD_SECONDS: Final = 2.0
_PAGE: Final = 1000


class Roster:
    """Keeps the ledger's view of agents true."""

    def __init__(
        self, database: Database, shapes: Shapes, ledger: Ledger, clock: Clock, terms: LeaseTerms = USUAL_TERMS
    ) -> None:
        self._terms = terms
        self._database = database
        self._shapes = shapes
        self._ledger = ledger
        self._clock = clock
        self._watch = LeaseWatch(terms)
        self._silent: set[AgentId] = set()
        self._changed: set[AgentId] = set()
        self._all_at = 0.0
        self._over: set[Fence] = set()

    def changed(self, agent_ids: Iterable[int] | None) -> None:
        """These agents are to be read again; None: all of them."""
        if agent_ids is None:
            self._all_at = 0.0
        else:
            for agent_id in map(AgentId, agent_ids):
                # It may just have left service: until it was read again it gets nothing.
                self._ledger.fleet.set_accepting(agent_id, accepting=False)
                self._changed.add(agent_id)

    def attempts_over(self, fences: Iterable[Fence]) -> None:
        """Gives back what attempts held."""
        fences = list(fences)
        # What is being read at this moment may still call them live.
        self._over.update(fences)
        self._ledger.ended(fences, self._clock.monotonic())

    def suspect(self, agent_ids: Iterable[int]) -> None:
        """What these hold is not known for sure: it is read again, whether or not they have a new session."""
        for agent_id in map(AgentId, agent_ids):
            if agent := self._ledger.fleet.agents.get(agent_id):
                agent.epoch = -1
            self._changed.add(agent_id)

    def forget(self) -> None:
        """Knows nothing any more."""
        for agent_id in list(self._ledger.fleet.agents):
            self._ledger.leave(agent_id)
        self._watch = LeaseWatch(self._terms)
        self._silent.clear()
        self._changed.clear()
        self._over.clear()
        self._all_at = 0.0

    async def learn(self) -> None:
        """Reads everything anew."""
        self.forget()
        await self.refresh()

    async def refresh(self) -> None:
        """Reads agents that changed, and all of them every two seconds."""
        now = self._clock.monotonic()
        everything = now >= self._all_at
        wanted, self._changed = self._changed, set()
        if not everything and not wanted:
            return
        try:
            self._over.clear()
            rows = await self._database.fetch("read_roster", ids=None if everything else sorted(wanted))
            if everything:
                self._all_at = now + _PERIOD_SECONDS
                self._listen(rows, now)
                wanted = set(self._ledger.fleet.agents)
            for agent_id in wanted - {row["id"] for row in rows}:
                self._ledger.leave(agent_id)
            await self._enter([row for row in rows if self._is_news(row)])
        except BaseException:
            self._changed |= wanted
            self._all_at = 0.0
            raise
        for row in rows:
            if row["id"] not in self._changed:
                self._ledger.fleet.set_accepting(row["id"], row["accepting"] and row["id"] not in self._silent)

    def _is_news(self, row: Row) -> bool:
        """Whether the agent is new, has a new session, or is judged in another way since its pool was changed."""
        agent = self._ledger.fleet.agents.get(row["id"])
        return agent is None or agent.epoch != row["epoch"] or agent.kind.pool != pool_says(row)

    def _listen(self, rows: list[Row], now: float) -> None:
        self._watch.observe({AgentId(row["id"]): row["lease_seq"] for row in rows if row["connected"]}, now)
        silent = set(self._watch.silent(now, self._terms.unreachable_seconds))
        for agent_id in silent - self._silent:
            _log.warning("agent_silent", agent=agent_id)
        self._silent = silent

    async def _enter(self, rows: list[Row]) -> None:
        """Takes in agents that are new, or have a new session."""
        for start in range(0, len(rows), _PAGE):
            seen = {AgentId(row["id"]): row for row in rows[start : start + _PAGE]}
            agents = await self._database.fetch("list_agents", after=0, count=_PAGE, ids=list(seen))
            live = await self._database.fetch("live_attempts_of", agent_ids=list(seen))
            held: dict[AgentId, dict[Fence, Reservation]] = {}
            queues = {AgentId(row["id"]) for row in agents if row["queues"]}
            for row in live:
                reservation = await self._reservation(row, queues)
                held.setdefault(reservation.agent_id, {})[Fence(row["fence"])] = reservation
            for row in agents:
                kind = machine_kind(row["token_labels"], row["facts"], pool_says(seen[row["id"]]))
                agent = AgentSlots(
                    agent_id=AgentId(row["id"]),
                    pool=row["pool"],
                    labels=row["labels"],
                    total=as_sold(capacity_from_json(row["capacity"]), kind),
                    kind=kind,
                    epoch=seen[row["id"]]["epoch"],
                    accepting=False,
                    queues=row["queues"],
                )
                holds = held.get(agent.agent_id, {})
                self._ledger.enter(agent, {fence: item for fence, item in holds.items() if fence not in self._over})
                self._silent.discard(agent.agent_id)

    async def _reservation(self, row: Row, queues: Collection[AgentId]) -> Reservation:
        gpu_indexes = tuple(row["gpu_indexes"] or ())
        # One that was not started may have room or not: it is counted among those that wait, and moves up.
        unstarted = row["attempt_state"] == AttemptState.ASSIGNED and not gpu_indexes
        return Reservation(
            agent_id=AgentId(row["agent_id"]),
            namespace=row["namespace"],
            resources=(await self._shapes.get(row["shape_id"])).choices[row["alternative"] or 0].resources,
            gpu_indexes=gpu_indexes,
            queued=unstarted and row["agent_id"] in queues,
        )
