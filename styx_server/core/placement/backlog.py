"""Whose turn it is: the waiting tasks, by namespace and by shape, as a bounded window of the queue in the database.

Order is priority, then fair share over namespaces, then age. A namespace's window has a horizon: everything up to it
is in memory, everything behind it only in the database until `refill` brings the next part.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from styx_server.core.task import Shape, TaskId

Key = tuple[int, int]
"""(-priority, task id): smaller goes first."""

_PART: Final = 2_000
"""As much is read in one go: a hundredth of a second's work, and meanwhile nobody else's task is placed."""

_COUNTED: Final = 1_000
"""Tasks of a shape are counted one by one up to here; nobody wants as many machines."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A task that waits. `ready_at` is a wall-clock timestamp in seconds; 0: at once."""

    task_id: TaskId
    namespace: str
    priority: int
    shape: Shape
    ready_at: float = 0.0

    @property
    def key(self) -> Key:
        """Its place in the order of its namespace."""
        return (-self.priority, self.task_id)


class NamespaceBacklog:
    """The waiting tasks of one namespace, at most about `window` of them in memory."""

    def __init__(self, namespace: str, window: int) -> None:
        self.namespace = namespace
        self._window = window
        self._tasks: dict[TaskId, Waiting] = {}
        self._ready: dict[Shape, list[Key]] = {}
        self._later: list[tuple[float, TaskId]] = []
        self._largest: Key = (-(10**9), 0)
        # Nothing is known until the first refill: whatever exists is behind this horizon.
        self._horizon: Key | None = (-(10**9), 0)
        self._refilling: list[Waiting] | None = None

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def horizon(self) -> Key | None:
        """Everything up to here is in memory; None: everything is."""
        return self._horizon

    def add(self, task: Waiting) -> None:
        """Takes in a task that is stored; one behind the horizon is left to `refill`."""
        if self._refilling is not None:
            self._refilling.append(task)
        if self._horizon is None and len(self._tasks) >= self._window:
            self._horizon = self._largest
        if self._horizon is None or task.key <= self._horizon:
            self._insert(task)

    def discard(self, task_id: TaskId) -> None:
        """Forgets a task: it was placed, or cancelled."""
        self._tasks.pop(task_id, None)

    def wants_refill(self) -> bool:
        """Whether there may be more behind the horizon, and room for it."""
        return self._horizon is not None and self._refilling is None and len(self._tasks) < self._window // 2

    def begin_refill(self) -> int:
        """Starts a refill; returns how many tasks to read from behind the horizon."""
        self._refilling = []
        return max(1, min(_PART, self._window - len(self._tasks)))

    def end_refill(self, tasks: Iterable[Waiting], exhausted: bool) -> None:
        """Takes in what was read. What arrived meanwhile may not have been seen by that read, so it is added again."""
        last: Key | None = None
        for task in tasks:
            self._insert(task)
            last = task.key
        if exhausted:
            self._horizon = None
        elif last is not None:
            self._horizon = last
        arrived, self._refilling = self._refilling or [], None
        for task in arrived:
            self.add(task)

    def abort_refill(self) -> None:
        """The read failed; the horizon stays."""
        self._refilling = None

    def promote(self, now: float) -> None:
        """Moves tasks whose time has come to the ready ones. `now`: wall-clock timestamp in seconds."""
        while self._later and self._later[0][0] <= now:
            ready_at, task_id = heapq.heappop(self._later)
            task = self._tasks.get(task_id)
            if task is not None and task.ready_at == ready_at:
                self._tasks[task_id] = ready = replace(task, ready_at=0.0)
                heapq.heappush(self._ready.setdefault(ready.shape, []), ready.key)

    def next_time(self) -> float | None:
        """When the next task becomes ready, as a wall-clock timestamp."""
        return self._later[0][0] if self._later else None

    def shapes(self) -> list[Shape]:
        """Shapes that have a ready task."""
        return [shape for shape in list(self._ready) if self.head(shape) is not None]

    def head(self, shape: Shape) -> Waiting | None:
        """The task of `shape` whose turn is next."""
        heap = self._ready.get(shape)
        while heap:
            if _is_ready(self._tasks, heap[0]):
                return self._tasks[TaskId(heap[0][1])]
            heapq.heappop(heap)
        self._ready.pop(shape, None)
        return None

    def count_ready(self, shape: Shape) -> int:
        """How many tasks of `shape` are ready."""
        heap = self._ready.get(shape, ())
        if len(heap) > _COUNTED:
            return len(heap)
        # The heap may name a task twice, and tasks that are gone.
        return sum(_is_ready(self._tasks, key) for key in set(heap))

    def _insert(self, task: Waiting) -> None:
        known = self._tasks.get(task.task_id)
        if known is not None and known == task:
            return
        self._tasks[task.task_id] = task
        self._largest = max(self._largest, task.key)
        if task.ready_at:
            heapq.heappush(self._later, (task.ready_at, task.task_id))
        else:
            heapq.heappush(self._ready.setdefault(task.shape, []), task.key)


class Backlog:
    """The waiting tasks of all namespaces."""

    def __init__(self, window: int = 50_000) -> None:
        self._window = window
        self.namespaces: dict[str, NamespaceBacklog] = {}

    def __len__(self) -> int:
        return sum(len(backlog) for backlog in self.namespaces.values())

    def namespace(self, name: str) -> NamespaceBacklog:
        """The backlog of one namespace, made when it is first named."""
        found = self.namespaces.get(name)
        if found is None:
            found = self.namespaces[name] = NamespaceBacklog(name, self._window)
        return found

    def count_ready(self, shape: Shape) -> int:
        """How many tasks of `shape` are ready; of very many about how many."""
        return sum(backlog.count_ready(shape) for backlog in self.namespaces.values())

    def forget(self) -> None:
        """Empties memory; all is behind the horizons again, to be read anew."""
        self.namespaces = {name: NamespaceBacklog(name, self._window) for name in self.namespaces}

    def promote(self, now: float) -> None:
        """Moves tasks whose time has come to the ready ones, everywhere."""
        for backlog in self.namespaces.values():
            backlog.promote(now)

    def next_time(self) -> float | None:
        """When the next task anywhere becomes ready, as a wall-clock timestamp."""
        times = [at for backlog in self.namespaces.values() if (at := backlog.next_time()) is not None]
        return min(times, default=None)


def _is_ready(tasks: Mapping[TaskId, Waiting], key: Key) -> bool:
    """Whether an entry of a heap still stands for a task that is ready."""
    task = tasks.get(TaskId(key[1]))
    return task is not None and task.key == key and not task.ready_at
