"""The change feed behind watches: every change of every task, in an order that can be taken up again anywhere.

The cursor is a place in the order of commits, below the oldest running transaction, so a row that commits late
cannot be skipped. One reader for each watch; a commit on this server wakes those whom it concerns at once, others are
seen by the poll.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable
from dataclasses import dataclass
from typing import Final

from styx_server.core.errors import InvalidRequest, NotFound, OutOfRange, Violation
from styx_server.core.filter import TaskFilter
from styx_server.core.states import TaskState
from styx_server.core.task import TaskId, TaskView
from styx_server.services.tasks import MAX_ID, Tasks
from styx_server.store.database import Database

_PAGE: Final = 1000
_POLL_SECONDS: Final = 1.0
_LATE_SECONDS: Final = 0.01
"""A change may be committed and still lie behind a transaction that runs: look again soon after a wake-up."""
_LATE_LOOKS: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """A place in the order of commits: transaction, and number within all."""

    txid: int
    seq: int

    def __str__(self) -> str:
        return f"{self.txid}.{self.seq}"

    @staticmethod
    def parse(text: str) -> Cursor:
        """Reads what `str` wrote.

        Raises:
            InvalidRequest: it is something else.
        """
        parts = text.split(".")
        known = len(parts) == 2 and all(part.isascii() and part.isdigit() and len(part) <= 19 for part in parts)
        if not known or int(parts[1]) > MAX_ID:
            text = "is not a cursor of this list; start over without one"
            raise InvalidRequest([Violation(field="cursor", description=text)], reason="PAGE_TOKEN_INVALID")
        return Cursor(txid=int(parts[0]), seq=int(parts[1]))


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchRequest:
    """Which tasks to watch; see WatchTasksRequest."""

    namespace: str
    task_ids: tuple[TaskId, ...]
    filter: TaskFilter
    cursor: Cursor | None
    changes_only: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Tasks as they are after some changes, and where to go on."""

    tasks: list[TaskView]
    cursor: Cursor
    synced: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Watcher:
    """One who watches.

    Attributes:
        task_ids: the tasks; none: all that match.
        only_ends: no task is of interest before it has ended.
    """

    task_ids: frozenset[TaskId]
    only_ends: bool
    event: asyncio.Event


class Feed:
    """Serves watches."""

    def __init__(self, database: Database, tasks: Tasks) -> None:
        self._database = database
        self._tasks = tasks
        self._watchers: set[_Watcher] = set()

    def wake(self) -> None:
        """Something was committed somewhere."""
        for watcher in self._watchers:
            watcher.event.set()

    def changed(self, going: Iterable[TaskId], ended: Iterable[TaskId]) -> None:
        """Tasks changed on this server, and of these some may have ended: wakes those whom it concerns."""
        over = frozenset(ended)
        every = over.union(going)
        for watcher in self._watchers:
            ids = over if watcher.only_ends else every
            if ids and not (watcher.task_ids and ids.isdisjoint(watcher.task_ids)):
                watcher.event.set()

    async def watch(self, request: WatchRequest) -> AsyncGenerator[Change, None]:
        """The tasks as they are, then every change, for ever.

        Raises:
            NotFound: one of the ids does not exist.
            OutOfRange: changes behind the cursor were dropped by retention.
        """
        watcher = _Watcher(frozenset(request.task_ids), _only_ends(request.filter), asyncio.Event())
        self._watchers.add(watcher)
        try:
            if request.cursor is not None:
                await self._check_kept(request.cursor)
            cursor = request.cursor or await self._end()
            if request.cursor is None and not request.changes_only:
                async for tasks in self._snapshot(request):
                    yield Change(tasks=tasks, cursor=cursor, synced=False)
            yield Change(tasks=[], cursor=cursor, synced=True)
            async for change in self._changes(request, cursor, watcher.event):
                yield change
        finally:
            self._watchers.discard(watcher)

    async def _check_kept(self, cursor: Cursor) -> None:
        row = await self._database.fetch_row("feed_floor")
        if row is not None and (cursor.txid, cursor.seq) < (int(row["txid"]), row["seq"]):
            raise OutOfRange(
                "changes that followed this cursor were dropped by retention; watch again without a cursor, which "
                "begins with all tasks as they are",
                reason="CURSOR_EXPIRED",
            )

    async def _end(self) -> Cursor:
        row = await self._database.fetch_row("feed_end")
        assert row is not None
        # All below that transaction is in the snapshot that is read next; what is above it comes as a change.
        return Cursor(txid=int(row["txid"]) - 1, seq=MAX_ID)

    async def _snapshot(self, request: WatchRequest) -> AsyncIterator[list[TaskView]]:
        if request.task_ids:
            tasks = await self._tasks.many(request.task_ids)
            if len(tasks) < len(set(request.task_ids)):
                missing = sorted(set(request.task_ids) - {task.task_id for task in tasks})
                raise NotFound(f"there is no task t{missing[0]}; see `styx list`", task_id=f"t{missing[0]}")
            if matching := [task for task in tasks if matches(task, request.filter)]:
                yield matching
            return
        below = MAX_ID
        while tasks := await self._tasks.page(request.namespace, request.filter, below, _PAGE, with_body=False):
            yield tasks
            below = tasks[-1].task_id

    async def _changes(
        self, request: WatchRequest, cursor: Cursor, event: asyncio.Event
    ) -> AsyncGenerator[Change, None]:
        wanted = frozenset(request.task_ids)
        looks = 0
        # What was committed since the cursor was taken has woken this watch.
        woken = request.cursor is not None or await _wait(event, _POLL_SECONDS)
        while True:
            event.clear()
            page = await self._database.fetch("read_feed", txid=str(cursor.txid), seq=cursor.seq, count=_PAGE)
            rows = [row for row in page if row["txid"] is not None]
            if rows:
                cursor = Cursor(txid=int(rows[-1]["txid"]), seq=rows[-1]["seq"])
                # Tasks that are named are watched wherever they are.
                ids = {row["task_id"] for row in rows if wanted or row["namespace"] == request.namespace}
                if matching := await self._matching(ids & wanted if wanted else ids, request.filter):
                    yield Change(tasks=matching, cursor=cursor, synced=True)
            if len(rows) == _PAGE:
                continue
            if page[-1]["settled"]:
                looks = 0
            elif rows or woken:
                looks = _LATE_LOOKS
            woken = await _wait(event, _LATE_SECONDS if looks else _POLL_SECONDS)
            looks = max(0, looks - 1)

    async def _matching(self, ids: Collection[TaskId], wanted: TaskFilter) -> list[TaskView]:
        tasks = await self._tasks.many(sorted(ids)) if ids else []
        return [task for task in tasks if matches(task, wanted)]


def _only_ends(wanted: TaskFilter) -> bool:
    states = set(TaskState if wanted.states is None else wanted.states) - set(wanted.not_states or ())
    return all(state.ended for state in states)


def matches(task: TaskView, wanted: TaskFilter) -> bool:
    """Whether a task meets the conditions of a watch."""
    return (
        (wanted.states is None or task.state in wanted.states)
        and (wanted.not_states is None or task.state not in wanted.not_states)
        and (wanted.agent_ids is None or task.agent_id in wanted.agent_ids)
        and (wanted.not_agent_ids is None or task.agent_id not in wanted.not_agent_ids)
        and (wanted.names is None or task.name in wanted.names)
        and (wanted.not_names is None or task.name not in wanted.not_names)
        and wanted.labels.items() <= dict(task.labels).items()
        and not any(task.labels.get(key) == value for key, value in wanted.not_labels)
    )


async def _wait(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
