"""The provider `fake`: a made-up cloud for people without an account, whose machines are agents on this computer.

It has regions, prices, quotas, and all the trouble that clouds make: nothing in stock, lost answers, spot machines that
are taken back. Next: `fake_cloud.py` (what there is), `fake_rules.py` (how it behaves), `processes/room.py` (the
machines).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from styx_server import clock
from styx_server.core.machines.instance import TAG_DEPLOYMENT, CloudMachine, RentOrder
from styx_server.core.machines.offer import CatalogEntry, Place
from styx_server.core.machines.refusal import RefusalKind, Scope
from styx_server.providers.fake_cloud import NAME, chance, entries, size_of, waiting_time, zones_of
from styx_server.providers.fake_rules import Rules, RulesFile
from styx_server.providers.local import agent_finding, arch, folder_finding
from styx_server.providers.ports import CheckReport, Finding, ProviderError
from styx_server.providers.processes.folder import Launch, MachineFolder
from styx_server.providers.processes.launch import agent_argv, agent_environment
from styx_server.providers.processes.room import MachineRoom, Starter, start_keeper

_SAYS: Final[dict[RefusalKind, tuple[str, str]]] = {
    RefusalKind.CAPACITY: ("OutOfStock", "there is no {offer} at the moment; try another zone, or later"),
    RefusalKind.QUOTA: ("QuotaExceeded", "the account may not have more machines in {offer.place.region}"),
    RefusalKind.PERMISSION: ("Forbidden", "the account may not rent machines"),
    RefusalKind.CREDENTIALS: ("UnknownAccount", "the account's key is not known; sign in again"),
    RefusalKind.THROTTLED: ("SlowDown", "too many calls; try the same again a little later"),
    RefusalKind.BAD_IMAGE: ("NoSuchImage", "there is no such image in {offer.place.region}"),
    RefusalKind.BAD_TYPE: ("NoSuchType", "there is never a {offer}"),
    RefusalKind.BAD_REQUEST: ("BadRequest", "something is wrong with the order"),
    RefusalKind.UNAVAILABLE: ("InternalError", "the cloud has failed; perhaps it did something, perhaps not"),
    RefusalKind.TIMEOUT: ("NoAnswer", "the cloud did not answer; perhaps it did something, perhaps not"),
}


class FakeProvider:
    """The made-up cloud.

    Args:
        root: its folder: `cloud.json`, and its machines.
        start: starts the keeper of a machine.
    """

    def __init__(self, root: Path, *, start: Starter = start_keeper) -> None:
        self.room = MachineRoom(root, name=NAME, start=start)
        self.rules = RulesFile(self.room.root)

    @property
    def name(self) -> str:
        """`fake`."""
        return NAME

    async def offers(self) -> Sequence[CatalogEntry]:
        """The price list."""
        rules = await self._call()
        return list(entries(rules.seed, clock.now(), arch()))

    async def rent(self, order: RentOrder) -> CloudMachine:
        """A machine, or the refusal that is due."""
        rules = await self._call()
        return await asyncio.to_thread(self._rent, order, rules)

    async def release(self, place: Place, cloud_id: str) -> None:
        """Ends a machine."""
        del place
        await self._call()
        await asyncio.to_thread(self.room.release, cloud_id)

    async def list(self, deployment: str, region: str) -> Sequence[CloudMachine]:
        """The machines of a deployment in a region."""
        await self._call()
        machines = await asyncio.to_thread(self.room.machines)
        return [
            machine
            for machine in machines
            if machine.place.region == region and machine.tags.get(TAG_DEPLOYMENT) == deployment
        ]

    async def check(self) -> CheckReport:
        """Whether the cloud answers, and its machines can be started here."""
        return await asyncio.to_thread(self._check)

    async def close(self) -> None:
        """Nothing is held; the machines go on."""

    async def _call(self) -> Rules:
        rules = await asyncio.to_thread(self.rules.read)
        await clock.sleep(rules.call_seconds)
        if rules.down:
            raise ProviderError(RefusalKind.UNAVAILABLE, "the made-up cloud is down", code="ServiceUnavailable")
        return rules

    # Rent.

    def _rent(self, order: RentOrder, rules: Rules) -> CloudMachine:
        if (due := self.rules.take_refusal()) is not None:
            raise _refusal(due.kind, order)
        place = self._zone(order, rules)
        machine = self.room.rent(
            order,
            place,
            lambda home: _launch(order, home, rules),
            lambda machines: _admit(order, place, rules, machines),
        )
        if self.rules.take_lost_answer():
            raise ProviderError(RefusalKind.TIMEOUT, "the made-up cloud's answer was lost", code="AnswerLost")
        return machine

    def _zone(self, order: RentOrder, rules: Rules) -> Place:
        """Where the machine will be: in the zone of the offer, or in one of the region that has it."""
        wanted, machine_type = order.offer.place, order.offer.machine_type
        places = [
            Place(provider=NAME, region=wanted.region, zone=zone)
            for zone in zones_of(machine_type, wanted.region)
            if wanted.zone in {"", zone}
        ]
        if not places or size_of(machine_type, arch()) != order.offer.size:
            raise _refusal(RefusalKind.BAD_TYPE, order)
        in_stock = [place for place in places if not _is_out(order, place, rules)]
        return (in_stock or places)[0]

    def _check(self) -> CheckReport:
        findings = [folder_finding(self.room.root), agent_finding()]
        try:
            down = self.rules.read().down
        except ProviderError as error:
            remedy = f"mend {self.rules.path}, or remove it"
            findings.append(Finding(good=False, what=error.message, remedy=remedy))
        else:
            what = f"the cloud is {'down' if down else 'up'}; {self.rules.path} says how it behaves"
            remedy = f'set "down" to false in {self.rules.path}' if down else ""
            findings.append(Finding(good=not down, what=what, remedy=remedy))
        return CheckReport(provider=NAME, identity="an account of the made-up cloud", findings=tuple(findings))


def _admit(order: RentOrder, place: Place, rules: Rules, machines: Sequence[CloudMachine]) -> None:
    region = place.region
    live = sum(machine.place.region == region for machine in machines)
    most = rules.quota.get(region, rules.quota.get("*"))
    if most is not None and live >= most:
        raise ProviderError(
            RefusalKind.QUOTA,
            f"the account has {live} machines in {region} and may have {most}; ask for more, or use another region",
            code="QuotaExceeded",
        )
    if len(machines) >= rules.max_machines:
        raise ProviderError(
            RefusalKind.CAPACITY,
            f"this computer plays {len(machines)} machines already; raise max_machines in cloud.json if it can do more",
            code="MaxMachines",
            scope=Scope.PROVIDER,
        )
    if _is_out(order, place, rules):
        raise _refusal(RefusalKind.CAPACITY, order)


def _is_out(order: RentOrder, place: Place, rules: Rules) -> bool:
    machine_type, spot = order.offer.machine_type, order.offer.spot
    if any(out.covers(place, machine_type, spot=spot) for out in rules.stockouts):
        return True
    span = int(clock.now().timestamp() / max(rules.stockout_seconds, 1.0))
    return chance(rules.seed, "stock", place.zone, machine_type, spot, span) < rules.stockout_share


def _launch(order: RentOrder, home: Path, rules: Rules) -> Launch:
    least, most = rules.start_seconds
    life = waiting_time(rules.preempt_every_seconds, chance(rules.seed, "life", order.key))
    return Launch(
        argv=agent_argv(order, home),
        env=agent_environment(order, MachineFolder(home.parent).notice),
        start_seconds=least + (most - least) * chance(rules.seed, "start", order.key),
        join_seconds=order.boot.join_seconds,
        silent_seconds=order.boot.silent_seconds,
        life_seconds=order.life_seconds,
        preempt_seconds=life if order.offer.spot else 0.0,
        notice_seconds=rules.notice_seconds,
    )


def _refusal(kind: RefusalKind, order: RentOrder) -> ProviderError:
    code, words = _SAYS[kind]
    retry_after = 1.0 if kind is RefusalKind.THROTTLED else None
    return ProviderError(kind, words.format(offer=order.offer), code=code, retry_after_seconds=retry_after)
