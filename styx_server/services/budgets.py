"""Budgets, and the tap: what stops renting before too much is spent."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

import structlog

from styx_server.core.errors import InvalidRequest, NotFound, Violation
from styx_server.core.limits import check_slug
from styx_server.services.tasks import Mutation, claim
from styx_server.store.database import Database, Executor, Row

_log = structlog.get_logger()

DEFAULT_WARN_SHARE: Final = 0.8
MAX_LIMIT_MICROS: Final = 10**15
"""A thousand million dollars."""
WATCH_SECONDS: Final = 60.0
_ALL: Final = 1000


class BudgetScope(StrEnum):
    """What a budget is for."""

    ALL = "all"
    POOL = "pool"
    NAMESPACE = "namespace"


class BudgetPeriod(StrEnum):
    """How often it starts again."""

    DAY = "day"
    MONTH = "month"
    TOTAL = "total"


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class BudgetKey:
    """Which budget."""

    scope: BudgetScope
    name: str = ""
    period: BudgetPeriod


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetView:
    """A limit on money, and how it stands.

    Attributes:
        hourly_micros: what an hour of what is rented under it costs; of a namespace it is not known, and 0.
    """

    key: BudgetKey
    limit_micros: int
    warn_share: float
    create_time: datetime
    spent_micros: int
    hourly_micros: int

    @property
    def warned(self) -> bool:
        """So much is spent that somebody is to be warned."""
        return self.spent_micros >= self.limit_micros * self.warn_share

    @property
    def exhausted(self) -> bool:
        """What is left does not pay for another hour of what is rented, so nothing more is."""
        return self.spent_micros + self.hourly_micros >= self.limit_micros


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """What is rented now."""

    frozen: bool
    instances: int
    price_micros: int


class Budgets:
    """All budgets, and whether anything is rented at all."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # What was said of a budget, so that it is said once, and again after it was good in between.
        self._said: dict[tuple[BudgetKey, str], int] = {}

    async def page(self, after: BudgetKey | None, count: int) -> list[BudgetView]:
        """Up to `count` budgets behind one."""
        scope, name, period = (after.scope, after.name, after.period) if after else ("", "", "")
        rows = await self._database.fetch("list_budgets", scope=str(scope), name=name, period=str(period), count=count)
        return await self._views(self._database, rows)

    async def set(self, key: BudgetKey, limit_micros: int, warn_share: float | None, mutation: Mutation) -> BudgetView:
        """Sets a limit, or changes it.

        Raises:
            InvalidRequest: something is wrong with it.
            Conflict: the request id was used for something else.
        """
        share = DEFAULT_WARN_SHARE if warn_share is None else warn_share
        _check(key, limit_micros, share)
        columns = {"scope": key.scope.value, "name": key.name, "period": key.period.value}
        async with self._database.transaction() as transaction:
            if await claim(transaction, mutation):
                await transaction.execute("upsert_budget", **columns, limit_micros=limit_micros, warn_share=share)
        views = {view.key: view for view in await self.page(None, _ALL)}
        if key not in views:
            raise _missing(key)
        return views[key]

    async def delete(self, key: BudgetKey, mutation: Mutation) -> None:
        """Takes a limit away.

        Raises:
            NotFound: there is none.
            Conflict: the request id was used for something else.
        """
        columns = {"scope": key.scope.value, "name": key.name, "period": key.period.value}
        async with self._database.transaction() as transaction:
            first = await claim(transaction, mutation)
            if first and not await transaction.fetch("delete_budget", **columns):
                raise _missing(key)

    async def set_frozen(self, mutation: Mutation, *, frozen: bool) -> Rate:
        """Stops all renting, or lets it go on.

        Raises:
            Conflict: the request id was used for something else.
        """
        async with self._database.transaction() as transaction:
            if await claim(transaction, mutation):
                await transaction.execute("set_renting_frozen", frozen=frozen)
        _log.info("renting_switched", frozen=frozen)
        row = await self._database.fetch_row("renting_frozen")
        rate = await self._database.fetch_row("running_rate", pool=None)
        assert row is not None
        assert rate is not None
        return Rate(frozen=row["frozen"], instances=rate["instances"], price_micros=rate["price_micros"])

    async def watch(self) -> float | None:
        """One look at all budgets: what is nearly or wholly spent is logged, once. To be made by the leader."""
        said: dict[tuple[BudgetKey, str], int] = {}
        for view in await self.page(None, _ALL):
            word = "exhausted" if view.exhausted else "nearly_spent" if view.warned else ""
            if not word:
                continue
            said[view.key, word] = view.limit_micros
            if self._said.get((view.key, word)) != view.limit_micros:
                _warn(view, word)
        self._said = said
        return None

    async def _views(self, executor: Executor, rows: list[Row]) -> list[BudgetView]:
        if not rows:
            return []
        spent = {_key(row): row for row in await executor.fetch("budget_spent", now=None)}
        return [
            BudgetView(
                key=_key(row),
                limit_micros=row["limit_micros"],
                warn_share=row["warn_share"],
                create_time=row["create_time"],
                spent_micros=spent[_key(row)]["spent_micros"],
                hourly_micros=spent[_key(row)]["hourly_micros"],
            )
            for row in rows
            if _key(row) in spent
        ]


async def budget_room(executor: Executor, pool: str) -> int | None:
    """What may still be spent for a pool, in millionths of a dollar; None: there is no limit.

    For the transaction that stores what is to be rented: a machine whose first hour costs more than this is not rented.
    Limits are locked until its end, so that two servers do not spend the same money.
    """
    row = await executor.fetch_row("budget_room", pool=pool, now=None)
    room: int | None = row["room_micros"] if row is not None else None
    return room


def _key(row: Row) -> BudgetKey:
    return BudgetKey(scope=BudgetScope(row["scope"]), name=row["name"], period=BudgetPeriod(row["period"]))


def _warn(view: BudgetView, word: str) -> None:
    about = {"scope": view.key.scope.value, "name": view.key.name, "period": view.key.period.value}
    money = {"spent_micros": view.spent_micros, "limit_micros": view.limit_micros}
    if word == "exhausted":
        _log.error("budget_exhausted", **about, **money)
    else:
        _log.warning("budget_nearly_spent", **about, **money)


def _check(key: BudgetKey, limit_micros: int, warn_share: float) -> None:
    violations = []
    if key.scope is BudgetScope.ALL and key.name:
        violations.append(Violation(field="name", description="goes with a pool or a namespace, not with ALL"))
    if not 0 <= limit_micros <= MAX_LIMIT_MICROS:
        text = f"is {limit_micros:,}, must be 0 to {MAX_LIMIT_MICROS:,} millionths of a dollar"
        violations.append(Violation(field="limit_micros", description=text))
    if not 0 <= warn_share <= 1:
        violations.append(Violation(field="warn_share", description=f"is {warn_share:g}, must be from 0 to 1"))
    if violations:
        raise InvalidRequest(violations)
    if key.scope is not BudgetScope.ALL:
        check_slug("name", key.name)


def _missing(key: BudgetKey) -> NotFound:
    what = f"{key.scope.value} {key.name}".strip()
    text = f"there is no budget for {what} per {key.period.value}; see `styx budget list`"
    return NotFound(text, reason="BUDGET_NOT_FOUND", scope=key.scope.value, name=key.name, period=key.period.value)
