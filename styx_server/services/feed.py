"""The change feed behind watches: every change of every task, in an order that can be taken up again anywhere.

The cursor is a place in the order of commits, below the oldest running transaction, so a row that commits late
cannot be skipped. One reader for each watch; a commit on this server wakes them at once, others are seen by the poll.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Final

from styx_server.core.errors import InvalidRequest, NotFound, OutOfRange, Violation
from styx_server.core.filter import TaskFilter
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


class Feed:
    """Serves watches."""

    def __init__(self, database: Database, tasks: Tasks) -> None:
        self._database = database
        self._tasks = tasks
        self._watchers: set[asyncio.Event] = set()

    def wake(self) -> None:
        """Something was committed on this server."""
        for event in self._watchers:
            event.set()

    async def watch(self, request: WatchRequest) -> AsyncGenerator[Change, None]:
        """The tasks as they are, then every change, for ever.

        Raises:
            NotFound: one of the ids does not exist.
            OutOfRange: changes behind the cursor were dropped by retention.
        """
        event = asyncio.Event()
        self._watchers.add(event)
        try:
            if request.cursor is not None:
                await self._check_kept(request.cursor)
            cursor = request.cursor or await self._end()
            if request.cursor is None and not request.changes_only:
                async for tasks in self._snapshot(request):
                    yield Change(tasks=tasks, cursor=cursor, synced=False)
            yield Change(tasks=[], cursor=cursor, synced=True)
            async for change in self._changes(request, cursor, event):
                yield change
        finally:
            self._watchers.discard(event)

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
            yield tasks
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
        while True:
            event.clear()
            rows = await self._database.fetch("read_feed", txid=str(cursor.txid), seq=cursor.seq, count=_PAGE)
            if rows:
                looks = _LATE_LOOKS
                cursor = Cursor(txid=int(rows[-1]["txid"]), seq=rows[-1]["seq"])
                # Tasks that are named are watched wherever they are.
                ids = {row["task_id"] for row in rows if wanted or row["namespace"] == request.namespace}
                tasks = await self._tasks.many(sorted(ids & wanted if wanted else ids))
                matching = [task for task in tasks if wanted or matches(task, request.filter)]
                if matching:
                    yield Change(tasks=matching, cursor=cursor, synced=True)
            if len(rows) == _PAGE:
                continue
            if await _wait(event, _LATE_SECONDS if looks else _POLL_SECONDS):
                looks = _LATE_LOOKS
            looks = max(0, looks - 1)


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
