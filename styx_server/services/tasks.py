"""Looks tasks up, and does what users ask of tasks that exist: cancel, retry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from styx import failpoints
from styx_server.core.errors import Conflict, NotFound, WrongState
from styx_server.core.filter import TaskFilter
from styx_server.core.placement.backlog import Waiting
from styx_server.core.states import TaskState
from styx_server.core.task import AgentId, AttemptView, EventView, TaskId, TaskView
from styx_server.services.log_streams import StreamState, state_from_row
from styx_server.services.scheduling import Scheduling
from styx_server.services.session_registry import SessionRegistry
from styx_server.services.shapes import Shapes
from styx_server.store.database import Database, Executor, Row
from styx_server.store.rows import attempt_view, event_view, live_attempt_view, stop_orders, task_view, to_ms

MAX_ID = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDetails:
    """Everything about one task."""

    task: TaskView
    attempts: list[AttemptView]
    timeline: list[EventView]
    streams: list[StreamState]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """Whose request this is, so that it can be repeated. An empty id: it cannot."""

    token_id: int
    method: str
    request_id: str
    digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskNews:
    """Who is told of what users ask for.

    Attributes:
        on_change: told after each commit which tasks changed: those that have not ended, then those that may have.
        on_cancelled: told which waiting tasks were ended.
        on_unsent: told of agents whose orders to stop were stored and not sent: their sessions are not here.
    """

    on_change: Callable[[Iterable[TaskId], Iterable[TaskId]], None]
    on_cancelled: Callable[[list[TaskId]], None]
    on_unsent: Callable[[Iterable[AgentId]], None]


class Tasks:
    """Tasks that exist."""

    def __init__(
        self, database: Database, shapes: Shapes, scheduling: Scheduling, registry: SessionRegistry, news: TaskNews
    ) -> None:
        self._database = database
        self._shapes = shapes
        self._scheduling = scheduling
        self._registry = registry
        self._news = news

    async def get(self, task_id: TaskId) -> TaskDetails:
        """Everything about one task.

        Raises:
            NotFound: there is no such task.
        """
        row = await self._row(task_id, with_body=True)
        attempts = [attempt_view(item) for item in await self._database.fetch("get_attempts", task_id=task_id)]
        live = live_attempt_view(row)
        if live is not None and all(attempt.number != live.number for attempt in attempts):
            attempts.append(live)
        timeline = [event_view(item) for item in await self._database.fetch("get_timeline", task_id=task_id)]
        streams = await self._database.fetch("get_streams", task_id=task_id, attempt=None)
        return TaskDetails(
            task=task_view(row),
            attempts=attempts,
            timeline=timeline,
            streams=[state_from_row(item) for item in streams],
        )

    async def status(self, task_id: TaskId) -> Row:
        """The state of one task and little else, as a row of `get_status`.

        Raises:
            NotFound: there is no such task.
        """
        row = await self._database.fetch_row("get_status", id=task_id)
        if row is None:
            raise _missing([task_id])
        return row

    async def page(
        self, namespace: str, wanted: TaskFilter, below: int, count: int, *, with_body: bool
    ) -> list[TaskView]:
        """Up to `count` tasks that match, newest first, with ids below `below`."""
        rows = await self._database.fetch(
            "list_task_ids", namespace=namespace, below=below, count=count, **filter_columns(wanted)
        )
        return await self.many([row["id"] for row in rows], with_body=with_body)

    async def many(self, task_ids: Sequence[int], *, with_body: bool = False) -> list[TaskView]:
        """Those of these tasks that exist, in the order asked for."""
        rows = await self._database.fetch("get_tasks", ids=list(task_ids), with_body=with_body)
        by_id = {row["id"]: task_view(row) for row in rows}
        return [by_id[task_id] for task_id in task_ids if task_id in by_id]

    async def cancel(
        self, task_ids: Sequence[TaskId], mutation: Mutation, grace_seconds: float | None
    ) -> list[TaskView]:
        """Asks tasks to stop; returns them as they are after it.

        Raises:
            NotFound: one of them does not exist; none was changed.
            Conflict: the request id was used for something else.
        """
        wanted = sorted(set(task_ids))
        message = "cancelled on request"
        async with self._database.transaction() as transaction:
            first = await claim(transaction, mutation, wanted)
            # Locked, so that none slips from waiting to running or back between the two statements.
            found = await transaction.fetch("lock_tasks", ids=wanted)
            if len(found) != len(wanted):
                raise _missing(sorted(set(wanted) - {row["id"] for row in found}))
            waiting: list[Row] = []
            if first:
                grace_ms = to_ms(grace_seconds)
                waiting = await transaction.fetch("cancel_waiting", ids=wanted, message=message, now=None)
                await transaction.execute("cancel_live", ids=wanted, message=message, grace_ms=grace_ms)
            stopping = await transaction.fetch("find_stopping", ids=wanted)
            # Read under the lock: what a retry does next is not the answer to this request.
            after = await transaction.fetch("get_tasks", ids=wanted, with_body=False)
        await failpoints.reach("server.cancel.committed")
        namespaces = {row["id"]: row["namespace"] for row in found}
        for row in waiting:
            self._scheduling.task_gone(namespaces[row["id"]], TaskId(row["id"]))
        # Of a repeated request too: the answer to the first may have been lost before its orders were sent.
        self._send_stops(stopping)
        self._news.on_cancelled([TaskId(row["id"]) for row in waiting])
        self._news.on_change((), wanted)
        views = {row["id"]: task_view(row) for row in after}
        return [views[task_id] for task_id in task_ids]

    async def retry(self, task_id: TaskId, mutation: Mutation) -> TaskDetails:
        """Gives a task that did not succeed one more attempt.

        Raises:
            NotFound: there is no such task.
            WrongState: it has not ended, or it succeeded.
            Conflict: the request id was used for something else.
        """
        async with self._database.transaction() as transaction:
            first = await claim(transaction, mutation, [task_id])
            row = await transaction.fetch_row("reopen_task", id=task_id) if first else None
            if first and row is None:
                await self._refuse_retry(task_id)
        if row is not None:
            shape = await self._shapes.get(row["shape_id"])
            self._scheduling.tasks_wait([Waiting(task_id, row["namespace"], row["priority"], shape)])
            self._news.on_change([task_id], ())
        return await self.get(task_id)

    async def _refuse_retry(self, task_id: TaskId) -> None:
        task = task_view(await self._row(task_id, with_body=False))
        if task.state is TaskState.SUCCEEDED:
            text = f"task t{task_id} has succeeded; submit it again as a new task"
            raise WrongState(text, reason="TASK_ENDED", task_id=f"t{task_id}")
        text = f"task t{task_id} is {task.state.name}; wait for its end, or cancel it first"
        raise WrongState(text, task_id=f"t{task_id}")

    async def _row(self, task_id: TaskId, *, with_body: bool) -> Row:
        row = await self._database.fetch_row("get_tasks", ids=[task_id], with_body=with_body)
        if row is None:
            raise _missing([task_id])
        return row

    def _send_stops(self, rows: list[Row]) -> None:
        orders = stop_orders(rows)
        unsent = [agent_id for agent_id, stops in orders.items() if not self._registry.stop(agent_id, stops)]
        if unsent:
            self._news.on_unsent(unsent)


async def claim(executor: Executor, mutation: Mutation, task_ids: Sequence[int] = ()) -> bool:
    """Records the request id of a mutation in its transaction; returns whether it is used for the first time.

    Raises:
        Conflict: it was used for something else.
    """
    if not mutation.request_id:
        return True
    key = {
        "token_ids": [mutation.token_id],
        "methods": [mutation.method],
        "request_ids": [mutation.request_id],
    }
    joined = ",".join(map(str, task_ids))
    if await executor.fetch("claim_requests", **key, digests=[mutation.digest], task_ids=[joined]):
        return True
    rows = await executor.fetch("find_requests", **key)
    if not rows or rows[0]["digest"] != mutation.digest:
        text = f"request_id {mutation.request_id!r} was used before for a different request; take a new id"
        raise Conflict(text, request_id=mutation.request_id)
    return False


def filter_columns(wanted: TaskFilter) -> dict[str, object]:
    """A filter as parameters of `list_task_ids`."""
    return {
        "states": wanted.states,
        "not_states": wanted.not_states,
        "agent_ids": wanted.agent_ids,
        "not_agent_ids": wanted.not_agent_ids,
        "names": wanted.names,
        "not_names": wanted.not_names,
        "labels": wanted.labels or None,
        "not_labels": [{key: value} for key, value in wanted.not_labels] or None,
        "id_from": wanted.id_from,
        "id_to": wanted.id_to,
        "time_from": wanted.time_from,
        "time_to": wanted.time_to,
    }


def _missing(task_ids: Sequence[int]) -> NotFound:
    shown = ", ".join(f"t{task_id}" for task_id in task_ids[:5]) + (", ..." if len(task_ids) > 5 else "")
    return NotFound(f"there is no task {shown}; see `styx list`", task_id=shown)
