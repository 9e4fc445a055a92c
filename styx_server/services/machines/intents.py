"""Decides for good to rent a machine: the row, the frozen request and the join token, in one transaction.

The limits of the pool are checked in that transaction, under a lock, so two servers together stay within them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from uuid import UUID

import structlog

from styx import failpoints
from styx_server.clock import Clock
from styx_server.core.errors import Unavailable
from styx_server.core.machines import reserved
from styx_server.core.machines.choose import dollars
from styx_server.core.machines.instance import (
    TAG_DEPLOYMENT,
    TAG_EXPIRES,
    TAG_INSTANCE,
    TAG_KEY,
    TAG_POOL,
    Boot,
    InstanceId,
    RentOrder,
)
from styx_server.core.machines.offer import Offer
from styx_server.core.machines.pool import Pool
from styx_server.core.machines.scale import Rent
from styx_server.core.machines.terms import MachineTerms
from styx_server.core.machines.user_data import user_data
from styx_server.ids import new_secret, new_suffix
from styx_server.services.access import digest
from styx_server.services.budgets import budget_room
from styx_server.store.database import Database, Transaction
from styx_server.store.machine_rows import offer_to_json, order_to_json, pool_from_row

_log = structlog.get_logger()

_FILE_SYSTEM_SHARE: Final = 1.1
_SYSTEM_BYTES: Final = 50 << 30
"""More than an image with the drivers of accelerators takes; and a small wish is no reason for a small disk."""


_NOTICES: Final = {"aws": "aws", "gcp": "gcp"}
"""Whose metadata service tells a spot machine that it is taken back. The other providers say it themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """How machines out there find their way back.

    Attributes:
        server_urls: of all servers, as a machine reaches them.
        bundle_sha256: of what they install; empty: machines are processes of this computer.
    """

    server_urls: tuple[str, ...]
    bundle_sha256: str = ""


class Intents:
    """Stores what is to be rented."""

    def __init__(self, database: Database, clock: Clock, deployment_id: UUID, terms: MachineTerms) -> None:
        self._database = database
        self._clock = clock
        self._deployment = str(deployment_id)
        self.reach: Reach | None = None
        self._terms = terms

    async def rent(self, wish: Rent, term: int) -> InstanceId | str:
        """Stores one machine to be rented; or says why not, in words for who waits.

        Raises:
            Unavailable: whether it is stored is not known; what was stored is rented.
        """
        if self.reach is None:
            return "this server has just begun"
        async with self._database.transaction() as transaction:
            allowed = await transaction.fetch_row("may_rent", term=term)
            row = await transaction.fetch_row("lock_pool", name=wish.pool)
            if allowed is None or row is None:
                return f"there is no pool {wish.pool} any more" if allowed else "another server leads"
            if not allowed["allowed"]:
                return "renting is frozen; `styx unfreeze` lets it go on"
            pool = pool_from_row(row)
            if why := await self._obstacle(transaction, pool, wish.offer):
                return why
            instance_id = await self._store(transaction, pool, wish, self.reach)
        await failpoints.reach("server.rent.intended", Unavailable)
        _log.info("machine_intended", instance=instance_id, pool=wish.pool, offer=str(wish.offer))
        return instance_id

    async def _obstacle(self, transaction: Transaction, pool: Pool, offer: Offer) -> str:
        """Which limit keeps one more machine from being rented; empty: none."""
        load = await transaction.fetch_row("pool_load", pool=pool.name)
        assert load is not None
        limit = pool.spec.max_price_micros
        if load["machines"] >= pool.spec.max_machines:
            return f"pool {pool.name} has all {pool.spec.max_machines} machines that it may have"
        if limit is not None and load["price_micros"] + offer.price_micros > limit:
            return f"pool {pool.name} may cost {dollars(limit)}, and {offer} would be more"
        left = await budget_room(transaction, pool.name)
        if left is not None and offer.price_micros > left:
            return f"the budget has no room for {offer}; see `styx budget list`"
        return ""

    async def _store(self, transaction: Transaction, pool: Pool, wish: Rent, reach: Reach) -> InstanceId:
        offer = wish.offer
        row = await transaction.fetch_row("next_instance_id")
        assert row is not None
        instance_id = InstanceId(row["id"])
        token = f"styx_join_{new_secret()}"
        life_seconds = round(pool.spec.life_seconds)
        expire_time = self._clock.now() + timedelta(seconds=pool.spec.life_seconds)
        # A database that was restored counts from an old number again: the rest of the key is new all the same.
        key = f"styx-{self._deployment[:8]}-i{instance_id}-{new_suffix()}"
        boot = Boot(
            server_urls=reach.server_urls,
            join_token=token,
            agent_name=f"i{instance_id}-{offer.machine_type}"[:200],
            bundle_sha256=reach.bundle_sha256,
            join_seconds=round(self._terms.join),
            preemption_notice=_NOTICES.get(offer.place.provider, "") if offer.spot else "",
        )
        order = RentOrder(
            instance_id=instance_id,
            key=key,
            offer=offer,
            tags={
                TAG_DEPLOYMENT: self._deployment,
                TAG_INSTANCE: f"i{instance_id}",
                TAG_KEY: key,
                TAG_EXPIRES: str(round(expire_time.timestamp())),
                TAG_POOL: pool.name,
            },
            boot=boot,
            user_data=user_data(boot, offer.size, life_seconds=life_seconds) if reach.bundle_sha256 else "",
            image=pool.spec.image,
            disk_bytes=max(pool.spec.disk_bytes, _disk_with(wish.disk_bytes)),
            life_seconds=life_seconds,
        )
        await transaction.execute(
            "insert_instance",
            id=instance_id,
            pool=pool.name,
            provider=offer.place.provider,
            region=offer.place.region,
            zone=offer.place.zone,
            machine_type=offer.machine_type,
            spot=offer.spot,
            price_micros=offer.price_micros,
            offer=offer_to_json(offer),
            request=order_to_json(order),
            key=key,
            expire_time=expire_time,
        )
        await transaction.execute(
            "insert_machine_token",
            digest=digest(token),
            expire_time=self._clock.now() + timedelta(seconds=self._terms.give_up + self._terms.join),
            pool=pool.name,
            labels={**pool.spec.labels, **machine_labels(instance_id, offer)},
            instance_id=instance_id,
        )
        return instance_id


def _disk_with(free_bytes: int) -> int:
    """The disk on which so much is free once a system is there: its files, and what a file system keeps for itself."""
    return round(free_bytes * _FILE_SYSTEM_SHARE) + _SYSTEM_BYTES if free_bytes else 0


def machine_labels(instance_id: InstanceId, offer: Offer) -> Mapping[str, str]:
    """What the agent of a rented machine carries, and what placement goes by."""
    return {
        reserved.INSTANCE: f"i{instance_id}",
        reserved.PROVIDER: offer.place.provider,
        reserved.REGION: offer.place.region,
        reserved.ZONE: offer.place.zone,
        reserved.MACHINE_TYPE: offer.machine_type,
        reserved.SPOT: "true" if offer.spot else "false",
        reserved.ARCH: offer.size.arch,
        reserved.GPU_MEMORY: str(offer.size.gpu_memory_bytes),
    }
