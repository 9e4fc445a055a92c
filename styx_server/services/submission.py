"""Takes in tasks: when `submit` returns, they are stored, and the same request id never makes them again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from styx import failpoints
from styx_server.clock import Clock
from styx_server.core.errors import Conflict, StyxError, Unavailable
from styx_server.core.placement.backlog import Waiting
from styx_server.core.task import NewTask, Shape, TaskId
from styx_server.services.budget import Budget
from styx_server.services.group_commit import GroupCommit
from styx_server.services.shapes import Shapes
from styx_server.store.database import Database
from styx_server.store.rows import spec_columns, task_columns

_Key = tuple[int, str, str]


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

    @property
    def key(self) -> _Key:
        """Under which its request id is remembered."""
        return (self.token_id, self.method, self.request_id)


@dataclass(frozen=True, slots=True)
class Submitted:
    """The answer to a call.

    Attributes:
        task_ids: in the order of its tasks.
        repeated: they were stored before, so they may be in any state by now.
    """

    task_ids: list[TaskId]
    repeated: bool


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
        self.commits: GroupCommit[Submit, Submitted | StyxError] = GroupCommit(
            "submit", self._flush, clock=clock, weigh=lambda call: len(call.tasks), max_weight=10_000
        )

    async def submit(self, call: Submit) -> Submitted:
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

    async def _submit(self, call: Submit) -> Submitted:
        await failpoints.reach("server.submit.received", Unavailable)
        await self._shapes.intern(task.shape for task in call.tasks)
        if call.namespace not in self._namespaces:
            await self._database.execute("ensure_namespace", name=call.namespace)
            self._namespaces.add(call.namespace)
        result = await self.commits.add(call)
        if isinstance(result, StyxError):
            raise result
        return result

    async def _flush(self, calls: list[Submit]) -> list[Submitted | StyxError]:
        first: dict[_Key, int] = {}
        for index, call in enumerate(calls):
            if call.request_id:
                first.setdefault(call.key, index)
        # A request id that comes twice in one batch is stored with the call that brought it first.
        fresh = await self._store({i: call for i, call in enumerate(calls) if first.get(call.key, i) == i})
        used = {calls[index].key: (calls[index].digest, ids) for index, ids in fresh.items()}
        used |= await self._find([key for key in first if key not in used])
        return [
            Submitted(fresh[index], repeated=False) if index in fresh else _answer(call, *used[call.key])
            for index, call in enumerate(calls)
        ]

    async def _store(self, calls: dict[int, Submit]) -> dict[int, list[TaskId]]:
        """Stores the tasks of calls with different request ids; returns the ids of those whose are not used yet."""
        shape_ids = await self._shapes.intern(task.shape for call in calls.values() for task in call.tasks)
        row = await self._database.fetch_row("submit_tasks", **_columns(list(calls.values()), shape_ids))
        assert row is not None
        await failpoints.reach("server.submit.committed")
        won = set(row["won"])
        supply = iter(row["ids"])
        fresh: dict[int, list[TaskId]] = {}
        for number, (index, call) in enumerate(calls.items(), 1):
            ids = [TaskId(next(supply)) for _ in call.tasks]
            if not call.request_id or number in won:
                fresh[index] = ids
        self._on_stored([each for index, ids in fresh.items() for each in _waiting(calls[index], ids)])
        return fresh

    async def _find(self, keys: list[_Key]) -> dict[_Key, tuple[bytes, list[TaskId]]]:
        """The digests of calls whose request ids were used before, and their tasks."""
        if not keys:
            return {}
        rows = await self._database.fetch(
            "find_requests",
            token_ids=[key[0] for key in keys],
            methods=[key[1] for key in keys],
            request_ids=[key[2] for key in keys],
        )
        return {
            (row["token_id"], row["method"], row["request_id"]): (
                row["digest"],
                [TaskId(number) for number in row["task_ids"] or ()],
            )
            for row in rows
        }


def _columns(calls: Sequence[Submit], shape_ids: Mapping[Shape, int]) -> dict[str, object]:
    """Parameters of `submit_tasks`."""
    tasks = [(number, task) for number, call in enumerate(calls, 1) for task in call.tasks]
    # Tasks of a call mostly share a spec, which is then one object: it is stored once.
    specs = {(number, id(task)): task for number, task in tasks}
    places = {key: place for place, key in enumerate(specs, 1)}
    asked = {number: call for number, call in enumerate(calls, 1) if call.request_id}
    ends = list(accumulate(len(call.tasks) for call in calls))
    return {
        **task_columns([task for _, task in tasks]),
        "specs": [places[number, id(task)] for number, task in tasks],
        "task_calls": [number if number in asked else 0 for number, _ in tasks],
        "shape_ids": [shape_ids[task.shape] for _, task in tasks],
        "namespaces": [calls[number - 1].namespace for number, _ in tasks],
        **spec_columns(list(specs.values())),
        "spec_calls": [number if number in asked else 0 for number, _ in specs],
        "calls": list(asked),
        "token_ids": [call.token_id for call in asked.values()],
        "methods": [call.method for call in asked.values()],
        "request_ids": [call.request_id for call in asked.values()],
        "digests": [call.digest for call in asked.values()],
        "firsts": [ends[number - 1] - len(call.tasks) + 1 for number, call in asked.items()],
        "lasts": [ends[number - 1] for number in asked],
    }


def _waiting(call: Submit, task_ids: Iterable[TaskId]) -> Iterator[Waiting]:
    for task_id, task in zip(task_ids, call.tasks, strict=True):
        yield Waiting(task_id, call.namespace, task.priority, task.shape, _ready_at(task))


def _answer(call: Submit, digest: bytes, task_ids: list[TaskId]) -> Submitted | StyxError:
    if digest != call.digest:
        return Conflict(
            f"request_id {call.request_id!r} was used before for a different request; take a new id",
            request_id=call.request_id,
        )
    return Submitted(task_ids, repeated=True)


def _size(call: Submit) -> int:
    """Bytes of memory that it takes, about; tasks of a batch share their specs."""
    bodies = {id(task.body): len(task.body) for task in call.tasks}
    return sum(bodies.values()) + _TASK_BYTES * len(call.tasks)


def _ready_at(task: NewTask) -> float:
    return task.not_before.timestamp() if task.not_before else 0.0
