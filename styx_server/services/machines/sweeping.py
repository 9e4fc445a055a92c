"""Looks at what providers say exists, and makes it one with what is stored: no machine is forgotten or paid for twice.

Every region in which a machine was ever rented is looked at for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

import structlog

from styx_server import clock
from styx_server.core.errors import Unavailable
from styx_server.core.machines.instance import CloudMachine, InstanceId, InstanceState
from styx_server.core.machines.sweep import Comparison, KnownMachine, compare
from styx_server.core.machines.terms import MachineTerms
from styx_server.providers.ports import Provider, ProviderError
from styx_server.services.machines.ends import PREEMPTED, Ends
from styx_server.services.machines.renting import Memory
from styx_server.store.database import Database, Row
from styx_server.store.machine_rows import offer_from_json

_log = structlog.get_logger()

PERIOD_SECONDS = 1.0


class Sweeping:
    """The looks at all regions. To be made by the leader only.

    Args:
        deployment: what all our machines are tagged with.
    """

    def __init__(
        self,
        database: Database,
        providers: Mapping[str, Provider],
        ends: Ends,
        memory: Memory,
        deployment: str,
        terms: MachineTerms,
    ) -> None:
        self._database = database
        self._providers = providers
        self._ends = ends
        self._memory = memory
        self._deployment = deployment
        self._terms = terms
        self._alarms: dict[tuple[str, str], str] = {}
        # Of regions that could not be looked at: how often in a row, and when to try again.
        self._failures: dict[tuple[str, str], tuple[int, float]] = {}
        self._abandoned: set[str] = set()

    async def once(self) -> float | None:
        """Looks where it is time to.

        Raises:
            Unavailable: the database is away.
        """
        rows = await self._database.fetch("read_scopes")
        self._tell_of_abandoned({row["provider"] for row in rows if row["live"]} - self._providers.keys())
        due = [(row["provider"], row["region"]) for row in rows if self._is_due(row)]
        async with asyncio.TaskGroup() as group:
            for scope in due:
                group.create_task(self._look(*scope))
        return None

    def _is_due(self, row: Row) -> bool:
        wait = (self._terms.look_idle, self._terms.look_calm, self._terms.look_busy)[row["urgency"]]
        _, again = self._failures.get((row["provider"], row["region"]), (0, 0.0))
        if row["provider"] not in self._providers or clock.boottime() < again:
            return False
        return row["since_seconds"] is None or bool(row["since_seconds"] >= wait)

    def _tell_of_abandoned(self, providers: set[str]) -> None:
        """What a provider has rented out that this server was not told of costs money, and nobody here can end it."""
        for provider in sorted(providers - self._abandoned):
            _log.error("machines_abandoned", provider=provider, action="configure it again, or end them there")
        self._abandoned = providers

    async def _look(self, provider: str, region: str) -> None:
        scope = (provider, region)
        try:
            good = await self._look_once(provider, region)
        except Exception:  # noqa: BLE001 - one region that goes wrong must not keep the others from being looked at
            _log.exception("machines_look_failed", provider=provider, region=region)
            good = False
        if good:
            self._failures.pop(scope, None)
            return
        failures = self._failures.get(scope, (0, 0.0))[0] + 1
        pause = min(3 * self._terms.look_calm, self._terms.look_busy * 2.0 ** min(failures - 1, 20))
        self._failures[scope] = (failures, clock.boottime() + pause)

    async def _look_once(self, provider: str, region: str) -> bool:
        """Whether it could be looked at."""
        try:
            async with asyncio.timeout(self._terms.call):
                listed = await self._providers[provider].list(self._deployment, region)
        except (ProviderError, TimeoutError) as error:
            # A list that could not be had says nothing about anything.
            _log.warning("machines_not_listed", provider=provider, region=region, error=str(error) or "no answer")
            return False
        try:
            await self._take(provider, region, list(listed))
        except Unavailable as error:
            # The database: no fault of the region.
            _log.warning("machines_not_compared", provider=provider, region=region, error=str(error))
        return True

    async def _take(self, provider: str, region: str, listed: list[CloudMachine]) -> None:
        # Read after the list was made: whatever is on it had its row before it was asked for.
        keys = [machine.key for machine in listed]
        rows = await self._database.fetch("known_machines", provider=provider, region=region, keys=keys)
        known = {InstanceId(row["id"]): row for row in rows}
        seen = compare(map(_known, rows), listed, self._terms)
        for instance_id, machine in seen.found:
            _log.info("machine_found", instance=instance_id, cloud_id=machine.cloud_id)
            await self._database.fetch_row(
                "record_launch", id=instance_id, cloud_id=machine.cloud_id, zone=machine.place.zone
            )
        await self._database.execute(
            "note_listed", provider=provider, region=region, ids=list(seen.there), theres=list(seen.there.values())
        )
        for instance_id, machine in seen.refused:
            await self._refuse(known[instance_id], machine)
        places = {machine.key: machine.place for machine in listed}
        for gone in seen.gone:
            row = known[gone.instance_id]
            if gone.reason == PREEMPTED and row["key"] in places:
                await self._memory.preempted(places[row["key"]])
            await self._ends.confirm(row, gone.reason)
        for machine in seen.back:
            _log.warning("machine_back", key=machine.key, cloud_id=machine.cloud_id)
        await self._end(provider, [*seen.back, *await self._nobodys(provider, region, seen)])

    async def _refuse(self, row: Row, machine: CloudMachine) -> None:
        """The order was accepted and could not be carried out: a refusal. What is left of it is cleared away."""
        assert machine.refusal is not None
        error = ProviderError(machine.refusal, machine.message or machine.reason, code=machine.reason)
        await self._memory.refused(offer_from_json(row["offer"]), error)
        await self._ends.give_back(InstanceId(row["id"]), None, machine.refusal.value, error.message)

    async def _nobodys(self, provider: str, region: str, seen: Comparison) -> list[CloudMachine]:
        """Those strangers that may be ended."""
        if seen.alarm != self._alarms.get((provider, region), ""):
            self._alarms[provider, region] = seen.alarm
            if seen.alarm:
                _log.error("machines_unknown", provider=provider, region=region, alarm=seen.alarm)
        if not seen.strangers:
            return []
        rows = await self._database.fetch(
            "note_strangers",
            provider=provider,
            region=region,
            cloud_ids=[machine.cloud_id for machine in seen.strangers],
            seconds=self._terms.stranger,
        )
        old = {row["cloud_id"] for row in rows}
        return [] if seen.alarm else [machine for machine in seen.strangers if machine.cloud_id in old]

    async def _end(self, provider: str, machines: Iterable[CloudMachine]) -> None:
        for machine in machines:
            _log.warning("machine_orphaned", provider=provider, cloud_id=machine.cloud_id, key=machine.key)
            try:
                async with asyncio.timeout(self._terms.call):
                    await self._providers[provider].release(machine.place, machine.cloud_id)
            except (ProviderError, TimeoutError) as error:
                _log.warning("orphan_not_ended", cloud_id=machine.cloud_id, error=str(error) or "no answer")


def _known(row: Row) -> KnownMachine:
    return KnownMachine(
        instance_id=InstanceId(row["id"]),
        state=InstanceState(row["state"]),
        key=row["key"],
        cloud_id=row["cloud_id"],
        calls=row["calls"],
        missed=row["missed"],
        missed_seconds=row["missed_seconds"] or 0.0,
        was_listed=row["was_listed"],
        heard=row["heard"],
    )
