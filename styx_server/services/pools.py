"""Pools as operators see and change them. Who rents for them is `instances.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import structlog

from styx_server.core.errors import Conflict, NotFound, WrongState
from styx_server.core.machines.pool import Pool, PoolSpec
from styx_server.core.machines.pool_rules import check_pool
from styx_server.services.tasks import Mutation, claim
from styx_server.store.database import Database, Executor, Row
from styx_server.store.machine_rows import pool_from_row, pool_spec_to_json

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolView:
    """A pool, and what it has now.

    Attributes:
        agents: how many serve it, rented or not.
        instances: how many machines are rented for it and not given back.
        price_micros: what these cost now, for an hour.
    """

    pool: Pool
    agents: int
    instances: int
    price_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolChange:
    """New words about a pool.

    Attributes:
        fields: which fields of the spec are meant.
        generation: only if it is still of this one; 0: whatever it is.
    """

    name: str
    spec: PoolSpec
    fields: frozenset[str]
    generation: int = 0


class Pools:
    """All pools.

    Args:
        on_change: told when a pool was made, changed or deleted.
    """

    def __init__(self, database: Database, on_change: Callable[[], None]) -> None:
        self._database = database
        self._on_change = on_change

    async def page(self, after: str, count: int) -> list[PoolView]:
        """Up to `count` pools with names behind `after`."""
        return await self._views(await self._database.fetch("list_pools", after=after, name=None, count=count))

    async def get(self, name: str) -> PoolView:
        """One pool.

        Raises:
            NotFound: there is none with this name.
        """
        views = await self._views(await self._database.fetch("list_pools", after="", name=name, count=1))
        if not views:
            raise _missing(name)
        return views[0]

    async def create(self, name: str, spec: PoolSpec, mutation: Mutation) -> PoolView:
        """Makes a pool.

        Raises:
            InvalidRequest: something is wrong with it.
            Conflict: the name is taken, or the request id was used for something else.
        """
        check_pool(name, spec)
        async with self._database.transaction() as transaction:
            first = await claim(transaction, mutation)
            made = first and await transaction.fetch("insert_pool", name=name, spec=pool_spec_to_json(spec))
            if first and not made:
                text = f"there is a pool {name} already; change it with `styx pool update {name}`, or take another name"
                raise Conflict(text, reason="POOL_EXISTS", pool=name)
        if made:
            _log.info("pool_created", pool=name)
            self._on_change()
        return await self.get(name)

    async def update(self, change: PoolChange, mutation: Mutation) -> PoolView:
        """Changes some fields of a pool.

        Raises:
            InvalidRequest: what comes of it is no good pool.
            NotFound: there is none with this name.
            WrongState: it is of another generation.
            Conflict: the request id was used for something else.
        """
        async with self._database.transaction() as transaction:
            first = await claim(transaction, mutation)
            pool = await _locked(transaction, change.name)
            if first:
                spec = _merged(pool, change)
                check_pool(change.name, spec)
                await transaction.execute("update_pool", name=change.name, spec=pool_spec_to_json(spec))
        if first:
            _log.info("pool_updated", pool=change.name, fields=sorted(change.fields))
            self._on_change()
        return await self.get(change.name)

    async def delete(self, name: str, mutation: Mutation) -> None:
        """Deletes a pool that has neither machines nor tasks. A task that is submitted meanwhile waits.

        Raises:
            NotFound: there is none with this name.
            WrongState: something is there, or it is the implicit one.
            Conflict: the request id was used for something else.
        """
        async with self._database.transaction() as transaction:
            if not await claim(transaction, mutation):
                return
            pool = await _locked(transaction, name)
            obstacle = await _obstacle(transaction, pool)
            if obstacle:
                raise WrongState(f"pool {name} cannot be deleted: {obstacle}", reason="POOL_IN_USE", pool=name)
            await transaction.execute("delete_pool", name=name)
        _log.info("pool_deleted", pool=name)
        self._on_change()

    async def _views(self, rows: Sequence[Row]) -> list[PoolView]:
        names = [row["name"] for row in rows]
        if not names:
            return []
        agents = {row["pool"]: row for row in await self._database.fetch("count_pool_agents", names=names)}
        rented = {row["pool"]: row for row in await self._database.fetch("count_pool_instances", names=names)}
        return [
            PoolView(
                pool=pool_from_row(row),
                agents=agents[row["name"]]["agents"] if row["name"] in agents else 0,
                instances=rented[row["name"]]["instances"] if row["name"] in rented else 0,
                price_micros=rented[row["name"]]["price_micros"] if row["name"] in rented else 0,
            )
            for row in rows
        ]


async def _locked(executor: Executor, name: str) -> Pool:
    row = await executor.fetch_row("lock_pool", name=name)
    if row is None:
        raise _missing(name)
    return pool_from_row(row)


def _merged(pool: Pool, change: PoolChange) -> PoolSpec:
    if change.generation not in (0, pool.generation):
        text = f"pool {pool.name} is of generation {pool.generation}, not {change.generation}; read it again"
        raise WrongState(text, reason="POOL_CHANGED", pool=pool.name, generation=pool.generation)
    return replace(pool.spec, **{name: getattr(change.spec, name) for name in change.fields})


async def _obstacle(executor: Executor, pool: Pool) -> str:
    """Why it cannot be deleted, and what to do about it; empty when it can."""
    name = pool.name
    if pool.implicit:
        return f"tasks that name no pool run in it; `styx pool update {name} --min 0 --max 0` stops all renting for it"
    rented = await executor.fetch_row("count_pool_instances", names=[name])
    if rented is not None:
        return (
            f"it has {rented['instances']} rented machines; give them back with `styx pool update {name} --min 0 "
            "--max 0` and `styx instance terminate`"
        )
    agents = await executor.fetch_row("count_pool_agents", names=[name])
    if agents is not None:
        return f"it has {agents['agents']} agents; remove them with `styx agent remove`"
    task = await executor.fetch_row("find_pool_task", name=name)
    if task is not None:
        return f"task t{task['id']} of it has not ended, perhaps others too; wait, or stop them with `styx cancel`"
    return ""


def _missing(name: str) -> NotFound:
    text = f"there is no pool {name[:63]}; see `styx pool list`"
    return NotFound(text, reason="POOL_NOT_FOUND", pool=name[:63])
