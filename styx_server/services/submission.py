"""Takes in tasks: when `submit` returns, they are stored, and the same request id never makes them again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from styx import failpoints
from styx_server.clock import Clock
from styx_server.core.errors import Conflict, StyxError, Unavailable
from styx_server.core.placement.backlog import Waiting
from styx_server.core.task import NewTask, TaskId
from styx_server.services.budget import Budget
from styx_server.services.group_commit import GroupCommit
from styx_server.services.shapes import Shapes
from styx_server.store.database import Database, Row, Transaction
from styx_server.store.rows import retry_to_json, task_columns


@dataclass(frozen=True, slots=True, kw_only=True)
class Submit:
    """One call: tasks to store together, all or none.

    Attributes:
        token_id: whose request ids these are.
        method: name of the rpc; request ids of different methods do not meet.
        request_id: empty: not repeatable.
        digest: SHA-256 of the request without its id.
    """

    token_id: int
    method: str
    request_id: str
    digest: bytes
    namespace: str
    tasks: Sequence[NewTask]


_Key = tuple[int, str, str]

_MAX_WAITING_BYTES: Final = 64 << 20
_TASK_BYTES: Final = 1024


class Submission:
    """Stores tasks, many calls in one commit.

    Args:
        on_stored: told of tasks that now wait.
    """

    def __init__(
        self, database: Database, shapes: Shapes, clock: Clock, on_stored: Callable[[list[Waiting]], None]
    ) -> None:
        self._database = database
        self._shapes = shapes
        self._on_stored = on_stored
        self._namespaces: set[str] = set()
        self._budget = Budget(_MAX_WAITING_BYTES, "submissions")
        self.commits: GroupCommit[Submit, list[TaskId] | StyxError] = GroupCommit(
            "submit", self._flush, clock=clock, weigh=lambda call: len(call.tasks), max_weight=10_000
        )

    async def submit(self, call: Submit) -> list[TaskId]:
        """Stores the tasks of `call`, or finds them when its request id was used before.

        Raises:
            Conflict: the request id was used for something else.
            Unavailable: the database is away; whether the tasks are stored is not known, so repeat the same call.
        """
        size = _size(call)
        if not self._budget.try_take(size):
            raise Unavailable(f"{_MAX_WAITING_BYTES >> 20} MiB of submissions wait for the database; try again")
        try:
            return await self._submit(call)
        finally:
            self._budget.give(size)

    async def _submit(self, call: Submit) -> list[TaskId]:
        await failpoints.reach("server.submit.received", Unavailable)
        await self._shapes.intern(task.shape for task in call.tasks)
        if call.namespace not in self._namespaces:
            await self._database.execute("ensure_namespace", name=call.namespace)
            self._namespaces.add(call.namespace)
        result = await self.commits.add(call)
        if isinstance(result, StyxError):
            raise result
        return result

    async def _flush(self, calls: list[Submit]) -> list[list[TaskId] | StyxError]:
        rows = await self._database.fetch("reserve_task_ids", count=sum(len(call.tasks) for call in calls))
        supply = iter([TaskId(row["id"]) for row in rows])
        ids = [[next(supply) for _ in call.tasks] for call in calls]
        async with self._database.transaction() as transaction:
            results = await _claim(transaction, calls, ids)
            new = [index for index, result in enumerate(results) if result is ids[index]]
            await self._insert(transaction, [calls[index] for index in new], [ids[index] for index in new])
        await failpoints.reach("server.submit.committed")
        waiting = [
            Waiting(task_id, calls[index].namespace, task.priority, task.shape, _ready_at(task))
            for index in new
            for task_id, task in zip(ids[index], calls[index].tasks, strict=True)
        ]
        self._on_stored(waiting)
        return results

    async def _insert(self, transaction: Transaction, calls: list[Submit], ids: list[list[TaskId]]) -> None:
        tasks = [task for call in calls for task in call.tasks]
        if not tasks:
            return
        # Tasks of a batch mostly share a spec, which is then one object: it is stored once.
        distinct = {id(task): task for task in tasks}
        specs = await transaction.fetch(
            "insert_specs",
            names=[task.name for task in distinct.values()],
            labels=[json.dumps(task.labels) for task in distinct.values()],
            retries=[retry_to_json(task.retry) for task in distinct.values()],
            bodies=[task.body for task in distinct.values()],
        )
        spec_ids = {key: row["id"] for key, row in zip(distinct, specs, strict=True)}
        shape_ids = await self._shapes.intern(task.shape for task in distinct.values())
        await transaction.execute(
            "insert_tasks",
            namespaces=[call.namespace for call in calls for _ in call.tasks],
            **task_columns(
                tasks,
                [task_id for batch in ids for task_id in batch],
                [spec_ids[id(task)] for task in tasks],
                [shape_ids[task.shape] for task in tasks],
            ),
        )


async def _claim(
    transaction: Transaction, calls: list[Submit], ids: list[list[TaskId]]
) -> list[list[TaskId] | StyxError]:
    """Records the request ids; for each call its fresh ids, the ids of the first time, or what is wrong."""
    results: list[list[TaskId] | StyxError] = list(ids)
    first: dict[_Key, int] = {}
    repeats: list[int] = []
    for index, call in enumerate(calls):
        if call.request_id and first.setdefault(_key(call), index) != index:
            repeats.append(index)
    if not first:
        return results
    claimed = await transaction.fetch(
        "claim_requests",
        token_ids=[key[0] for key in first],
        methods=[key[1] for key in first],
        request_ids=[key[2] for key in first],
        digests=[calls[index].digest for index in first.values()],
        task_ids=[",".join(map(str, ids[index])) for index in first.values()],
    )
    won = {(row["token_id"], row["method"], row["request_id"]) for row in claimed}
    used = await _find(transaction, [key for key in first if key not in won])
    for index in [index for key, index in first.items() if key not in won]:
        row = used[_key(calls[index])]
        results[index] = _answer(calls[index], row["digest"], [TaskId(n) for n in row["task_ids"] or ()])
    for index in repeats:
        original = first[_key(calls[index])]
        answer = results[original]
        if _key(calls[index]) in won:
            assert not isinstance(answer, StyxError)
            results[index] = _answer(calls[index], calls[original].digest, list(answer))
        else:
            row = used[_key(calls[index])]
            results[index] = _answer(calls[index], row["digest"], [TaskId(n) for n in row["task_ids"] or ()])
    return results


async def _find(transaction: Transaction, keys: list[_Key]) -> dict[_Key, Row]:
    if not keys:
        return {}
    rows = await transaction.fetch(
        "find_requests",
        token_ids=[key[0] for key in keys],
        methods=[key[1] for key in keys],
        request_ids=[key[2] for key in keys],
    )
    return {(row["token_id"], row["method"], row["request_id"]): row for row in rows}


def _answer(call: Submit, digest: bytes, task_ids: list[TaskId]) -> list[TaskId] | StyxError:
    if digest != call.digest:
        return Conflict(
            f"request_id {call.request_id!r} was used before for a different request; take a new id",
            request_id=call.request_id,
        )
    return task_ids


def _key(call: Submit) -> _Key:
    return (call.token_id, call.method, call.request_id)


def _size(call: Submit) -> int:
    """Bytes of memory that it takes, about; tasks of a batch share their specs."""
    bodies = {id(task.body): len(task.body) for task in call.tasks}
    return sum(bodies.values()) + _TASK_BYTES * len(call.tasks)


def _ready_at(task: NewTask) -> float:
    return task.not_before.timestamp() if task.not_before else 0.0
