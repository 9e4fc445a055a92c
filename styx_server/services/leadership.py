"""Which loops this server leads. A lead is a row with a term, kept by renewing it, taken when it falls silent.

The term is what makes it safe: whatever a leader stores is held against it, or is a compare-and-set anyway. So it does
no harm when two servers believe that they lead for a moment, and a lead may be taken as soon as its holder looks dead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import structlog

from styx import failpoints
from styx_server.clock import Clock
from styx_server.store.database import Database, Row

_log = structlog.get_logger()

TTL_SECONDS: Final = 10.0
"""A lead whose row stood still for this long on the observer's own clock is free."""
_TRUST_SECONDS: Final = TTL_SECONDS - 1.0
"""A leader stops by itself this long after the last renewal that it asked for and got."""
_LOOK_SECONDS: Final = 1.0
_LEADER_LOOK_SECONDS: Final = 2.0
_DEAD_LOOKS: Final = 2
"""The sign of life must be missing in as many looks, because a server that lost its connection comes back at once."""


def replica_number(replica_id: UUID) -> int:
    """A server's number in locks, notes and events; as the function of the same name in the schema."""
    return int(replica_id.hex[:7], 16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """Something that one server does for all.

    Attributes:
        on_lead: told the new term when this server becomes the leader.
        on_resign: told when it is not the leader any more.
    """

    on_lead: Callable[[int], None] = lambda _term: None
    on_resign: Callable[[], None] = lambda: None


@dataclass(slots=True)
class _Seen:
    term: int
    seq: int
    since: float
    dead_looks: int = 0


@dataclass(slots=True)
class _Lead:
    term: int
    trusted_until: float


class Leadership:
    """This server's view of all leads.

    Args:
        roles: by their names, as in the table `leaders`.
        on_replicas: told the numbers of the servers that live, at each look.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        replica_id: UUID,
        *,
        roles: Mapping[str, Role],
        on_replicas: Callable[[set[int]], None],
    ) -> None:
        self._database = database
        self._clock = clock
        self._replica_id = replica_id
        self._roles = roles
        self._on_replicas = on_replicas
        self._seen: dict[str, _Seen] = {}
        self._leads: dict[str, _Lead] = {}
        self._gone: set[int] = set()
        self._can_see = False
        self._leaving = False

    def leads(self, name: str) -> bool:
        """Whether this server may act as the leader now."""
        lead = self._leads.get(name)
        return lead is not None and self._clock.monotonic() < lead.trusted_until

    async def once(self) -> float | None:
        """One look: renews what this server leads, and takes what nobody does.

        Raises:
            Unavailable: the database is away; a lead lasts until its trust runs out.
        """
        try:
            asked_at = self._clock.monotonic()
            rows = await self._database.fetch("look_at_leaders")
            await self._look_at_replicas()
            await self._renew(asked_at)
            if self._can_see and self.leads("upkeep"):
                await self._close_sessions_of_the_dead()
            for row in [] if self._leaving else rows:
                if row["name"] in self._roles and row["name"] not in self._leads and self._is_free(row, asked_at):
                    await self._take(row)
        finally:
            self._drop_untrusted()
        return _LEADER_LOOK_SECONDS if self._leads.keys() == self._roles.keys() else _LOOK_SECONDS

    async def release(self) -> None:
        """Gives every lead back at once, for others to take, and takes none any more."""
        self._leaving = True
        for name in list(self._leads):
            self._resign(name, "this server stops")
        await self._database.execute("release_leads", replica_id=self._replica_id)

    async def _look_at_replicas(self) -> None:
        living = {int(row["number"]) for row in await self._database.fetch("list_replicas")}
        self._on_replicas(living)
        # Who does not see itself (it has just lost its connection, or there is a pooler between) judges nobody.
        self._can_see = replica_number(self._replica_id) in living

    async def _close_sessions_of_the_dead(self) -> None:
        gone = {int(row["number"]) for row in await self._database.fetch("list_gone")}
        twice, self._gone = self._gone & gone, gone
        if twice and await self._database.fetch("disconnect_gone", numbers=sorted(twice)):
            _log.warning("replica_gone", count=len(twice))

    async def _renew(self, asked_at: float) -> None:
        if not self._leads:
            return
        leads = dict(self._leads)
        rows = await self._database.fetch(
            "renew_leads",
            names=list(leads),
            terms=[lead.term for lead in leads.values()],
            replica_id=self._replica_id,
        )
        renewed = {row["name"] for row in rows}
        for name, lead in leads.items():
            if name in renewed:
                lead.trusted_until = asked_at + _TRUST_SECONDS
            else:
                self._resign(name, "another server leads")

    def _is_free(self, row: Row, now: float) -> bool:
        seen = self._seen.get(row["name"])
        if seen is None or (seen.term, seen.seq) != (row["term"], row["seq"]):
            seen = self._seen[row["name"]] = _Seen(row["term"], row["seq"], now)
        seen.dead_looks = 0 if row["lives"] or not self._can_see else seen.dead_looks + 1
        return row["released"] or seen.dead_looks >= _DEAD_LOOKS or now - seen.since >= TTL_SECONDS

    async def _take(self, row: Row) -> None:
        name = row["name"]
        asked_at = self._clock.monotonic()
        won = await self._database.fetch_row(
            "take_lead", name=name, term=row["term"], seq=row["seq"], replica_id=self._replica_id
        )
        if won is None:
            return
        if self._leaving:
            await self._database.execute("release_leads", replica_id=self._replica_id)
            return
        await failpoints.reach("server.lead.won")
        self._leads[name] = _Lead(won["term"], asked_at + _TRUST_SECONDS)
        _log.info("lead_taken", role=name, term=won["term"])
        self._roles[name].on_lead(won["term"])

    def _drop_untrusted(self) -> None:
        for name in list(self._leads):
            if not self.leads(name):
                self._resign(name, "it could not be renewed in time")

    def _resign(self, name: str, why: str) -> None:
        lead = self._leads.pop(name, None)
        if lead is None:
            # Given back while it was being renewed.
            return
        _log.warning("lead_lost", role=name, term=lead.term, reason=why)
        self._roles[name].on_resign()
