"""Asks providers for machines and gives them back: every call that costs money is made here.

The row is stored before the call, the call's key is the row's, and what it gave is stored by compare-and-set. So a
server may die anywhere here: the next one makes the same call again, and `sweeping` finds what nobody waited for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, Protocol

import structlog

from styx import failpoints
from styx_server.core.errors import Unavailable
from styx_server.core.machines.instance import InstanceId, InstanceState
from styx_server.core.machines.offer import Offer, Place
from styx_server.core.machines.refusal import RULES, RefusalKind
from styx_server.core.machines.terms import MachineTerms
from styx_server.ids import jitter
from styx_server.providers.ports import Provider, ProviderError
from styx_server.services.wants import Wants
from styx_server.store.database import Database, Row
from styx_server.store.machine_rows import order_from_json

_log = structlog.get_logger()

_AT_ONCE: Final = 16
PERIOD_SECONDS: Final = 1.0


class Memory(Protocol):
    """What remembers where machines were to be had, and where not."""

    async def refused(self, offer: Offer, error: ProviderError) -> None:
        """An offer was refused."""
        ...

    async def granted(self, offer: Offer) -> None:
        """An offer was good."""
        ...

    async def preempted(self, place: Place) -> None:
        """A spot machine was taken back."""
        ...

    async def absent(self, place: Place) -> None:
        """The agent of a machine never came."""
        ...


class Renting:
    """Makes the calls that are due, several at once, while the loop goes on.

    Args:
        on_change: told whenever a call has changed something.
    """

    def __init__(
        self,
        database: Database,
        providers: Mapping[str, Provider],
        memory: Memory,
        wants: Wants,
        on_change: Callable[[], None],
        terms: MachineTerms,
    ) -> None:
        self._database = database
        self._providers = providers
        self._memory = memory
        self._wants = wants
        self._term = 0
        self._on_change = on_change
        self._terms = terms
        self._flying: set[InstanceId] = set()
        self._queue: asyncio.Queue[Row] = asyncio.Queue()

    async def run(self) -> None:
        """Makes calls for ever, several at once."""
        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(self._work())

    async def once(self) -> float | None:
        """Looks for calls that are due. To be made by the leader only.

        Raises:
            Unavailable: the database is away.
        """
        if self._term != (term := self._wants.term):
            # Calls of a leader before may have died with it. Their keys make it safe to make them again at once.
            await self._database.execute("hasten_calls", but=list(self._flying))
            self._term = term
        free = _AT_ONCE - len(self._flying)
        if free <= 0 or not self._providers:
            return None
        rows = await self._database.fetch("due_instances", providers=list(self._providers), count=free)
        for row in rows:
            if row["id"] not in self._flying:
                self._flying.add(row["id"])
                self._queue.put_nowait(row)
        return None

    async def _work(self) -> None:
        while True:
            row = await self._queue.get()
            try:
                await self._call(row)
            except Unavailable as error:
                # The claim has a time limit; then the call is due again.
                _log.warning("machine_call_postponed", instance=row["id"], error=str(error))
            except Exception:  # noqa: BLE001 - one machine that goes wrong must not stop the others
                _log.exception("machine_call_failed", instance=row["id"])
            finally:
                self._flying.discard(row["id"])
                self._on_change()

    async def _call(self, row: Row) -> None:
        seconds = self._terms.call + 10.0
        claimed = await self._database.fetch_row("claim_call", id=row["id"], calls=row["calls"], seconds=seconds)
        if claimed is None:
            return
        if claimed["state"] == InstanceState.TERMINATING:
            await self._release(row)
        else:
            await self._rent(row)

    async def _rent(self, row: Row) -> None:
        order = order_from_json(row["request"])
        await failpoints.reach("server.rent.asking", Unavailable)
        try:
            async with asyncio.timeout(self._terms.call):
                machine = await self._providers[row["provider"]].rent(order)
        except (ProviderError, TimeoutError) as error:
            await self._refused(row, order.offer, _as_provider_error(error, row["provider"]))
            return
        await failpoints.reach("server.rent.answered")
        stored = await self._database.fetch_row(
            "record_launch", id=row["id"], cloud_id=machine.cloud_id, zone=machine.place.zone
        )
        await failpoints.reach("server.rent.recorded")
        _log.info("machine_launched", instance=row["id"], offer=str(order.offer), cloud_id=machine.cloud_id)
        if stored is None:
            _log.warning("machine_unwanted", instance=row["id"], cloud_id=machine.cloud_id)
        await self._memory.granted(order.offer)

    async def _refused(self, row: Row, offer: Offer, error: ProviderError) -> None:
        rule = RULES[error.kind]
        _log.warning(
            "machine_refused",
            instance=row["id"], offer=str(offer), kind=error.kind.value, code=error.code, error=error.message,
        )  # fmt: skip
        words = {"reason": error.kind.value, "message": error.message}
        gives_up = row["age_seconds"] >= self._terms.give_up
        if rule.repeats and not gives_up:
            # Not beyond the time at which it is given up: tasks wait for it.
            left = max(self._terms.first_pause, self._terms.give_up - row["age_seconds"])
            await self._postpone(row, words, error.retry_after_seconds, most=left)
            return
        await self._memory.refused(offer, error)
        # One that kept being repeated may have been carried out in an earlier call: its last no is not definite.
        refused = (
            rule.fate_known
            and not rule.repeats
            and await self._database.fetch_row("record_refusal", id=row["id"], **words)
        )
        if not refused:
            # It may exist, or was on a list meanwhile: it is given back until the list says that it does not. One whose
            # agent has joined meanwhile is there, whatever the last call was answered with.
            await self._database.fetch_row("give_up", id=row["id"], **words)

    async def _release(self, row: Row) -> None:
        # Without the provider's name for it there is nothing to end; sweeping finds the name, or that there is none.
        if row["cloud_id"]:
            place = Place(provider=row["provider"], region=row["region"], zone=row["zone"])
            await failpoints.reach("server.release.asking", Unavailable)
            try:
                async with asyncio.timeout(self._terms.call):
                    await self._providers[row["provider"]].release(place, row["cloud_id"])
            except (ProviderError, TimeoutError) as raised:
                error = _as_provider_error(raised, row["provider"])
                _log.warning("machine_not_released", instance=row["id"], cloud_id=row["cloud_id"], error=error.message)
                await self._postpone(row, {"reason": row["reason"], "message": error.message}, None)
                return
            await failpoints.reach("server.release.answered")
        # Asked again until it is confirmed: a call that was accepted may still have been for nothing.
        await self._postpone(row, {"reason": row["reason"], "message": row["message"]}, None)

    async def _postpone(
        self, row: Row, words: Mapping[str, str], seconds: float | None, *, most: float | None = None
    ) -> None:
        longest = self._terms.longest_pause if most is None else min(most, self._terms.longest_pause)
        pause = min(longest, self._terms.first_pause * 2 ** min(row["calls"], 20))
        wait = max(seconds or 0.0, pause * (0.75 + jitter() / 2))
        await self._database.fetch_row("postpone_call", id=row["id"], seconds=wait, **words)


def _as_provider_error(error: ProviderError | TimeoutError, provider: str) -> ProviderError:
    if isinstance(error, ProviderError):
        return error
    return ProviderError(RefusalKind.TIMEOUT, f"{provider} did not answer in time", code="timeout")
