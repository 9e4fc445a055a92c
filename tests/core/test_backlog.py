"""Whose turn it is: a bounded window of a queue that others write to, held against a simple model of that queue."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from styx_server.core.placement.backlog import Backlog, NamespaceBacklog, Waiting
from styx_server.core.placement.fleet import Fleet
from styx_server.core.placement.plan import plan_round
from styx_server.core.task import TaskId
from tests.support.builders import a_shape, a_waiting, some_slots

SHAPES = [a_shape(), a_shape(cpus_milli=2000)]
WINDOW = 4


class QueueMachine(RuleBasedStateMachine):
    """A namespace's window beside the table it is a window of.

    `table`: what the database has. `told`: of that, what the window was told of, or could have read.
    """

    def __init__(self) -> None:
        super().__init__()
        self.window = NamespaceBacklog("default", WINDOW)
        self.table: dict[TaskId, Waiting] = {}
        self.untold: list[Waiting] = []
        self.told: set[TaskId] = set()
        self.placed: list[TaskId] = []
        self.reading: tuple[int, list[Waiting]] | None = None
        self.began: int | None = None
        self.now = 0.0
        self.next_id = 1

    @rule(priority=st.integers(-2, 2), shape=st.sampled_from(SHAPES), wait=st.sampled_from([0.0, 0.0, 5.0, 50.0]))
    def commit(self, priority: int, shape: object, wait: float) -> None:
        """A submission is stored; the window hears of it later."""
        ready_at = self.now + wait if wait else 0.0
        task = a_waiting(self.next_id, priority=priority, shape=shape, ready_at=ready_at)
        self.next_id += 1
        self.table[task.task_id] = task
        self.untold.append(task)

    @precondition(lambda self: self.untold)
    @rule(data=st.data())
    def tell(self, data: st.DataObject) -> None:
        task = self.untold.pop(data.draw(st.integers(0, len(self.untold) - 1)))
        self.window.add(task)
        if task.task_id in self.table:
            self.told.add(task.task_id)
        else:
            self.window.discard(task.task_id)

    @precondition(lambda self: self.table)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        task_id = data.draw(st.sampled_from(sorted(self.table)))
        del self.table[task_id]
        self.told.discard(task_id)
        self.window.discard(task_id)

    @precondition(lambda self: self.began is None and self.window.wants_refill())
    @rule()
    def begin_refill(self) -> None:
        self.began = self.window.begin_refill()

    @precondition(lambda self: self.began is not None and self.reading is None)
    @rule()
    def read(self) -> None:
        """The query takes its snapshot."""
        assert self.began is not None
        horizon = self.window.horizon
        assert horizon is not None
        rows = sorted((task for task in self.table.values() if task.key > horizon), key=lambda task: task.key)
        self.reading = (self.began, rows[: self.began])

    @precondition(lambda self: self.reading is not None)
    @rule()
    def end_refill(self) -> None:
        assert self.reading is not None
        count, rows = self.reading
        self.window.end_refill(rows, exhausted=len(rows) < count)
        self.began = self.reading = None

    @precondition(lambda self: self.began is not None)
    @rule()
    def abort_refill(self) -> None:
        self.window.abort_refill()
        self.began = self.reading = None

    @rule(seconds=st.sampled_from([1.0, 10.0, 100.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.window.promote(self.now)
        upcoming = self.window.next_time()
        assert upcoming is None or upcoming > self.now

    @precondition(lambda self: self.began is None)
    @rule()
    def place(self) -> None:
        """A round: never during a refill, as the scheduler does one after the other."""
        self.window.promote(self.now)
        heads = [self.window.head(shape) for shape in self.window.shapes()]
        best = min((head for head in heads if head is not None), key=lambda task: task.key, default=None)
        self.check_order(best)
        if best is None:
            return
        self.window.discard(best.task_id)
        if best.task_id in self.table:
            assert self.table[best.task_id].ready_at <= self.now
            del self.table[best.task_id]
            self.told.discard(best.task_id)
            self.untold = [task for task in self.untold if task.task_id != best.task_id]
            self.placed.append(best.task_id)

    @precondition(lambda self: self.placed)
    @rule(data=st.data(), wait=st.sampled_from([0.0, 20.0]))
    def requeue(self, data: st.DataObject, wait: float) -> None:
        """An attempt ended and the task waits again."""
        task_id = data.draw(st.sampled_from(self.placed))
        self.placed.remove(task_id)
        task = a_waiting(task_id, priority=task_id % 3 - 1, ready_at=self.now + wait if wait else 0.0)
        self.table[task_id] = task
        self.window.add(task)
        self.told.add(task_id)

    def check_order(self, best: Waiting | None) -> None:
        horizon = self.window.horizon
        for task_id in self.told:
            task = self.table[task_id]
            if task.ready_at <= self.now and (horizon is None or task.key <= horizon):
                assert best is not None
                assert best.key <= task.key

    @invariant()
    def no_task_is_lost(self) -> None:
        horizon = self.window.horizon
        arrived = {task.task_id for task in self.window._refilling or ()}
        for task_id in self.told:
            behind = horizon is not None and self.table[task_id].key > horizon
            assert behind or task_id in self.window._tasks or task_id in arrived

    def teardown(self) -> None:
        """All that is in the table is placed in the end, each once."""
        if self.reading is not None:
            self.end_refill()
        elif self.began is not None:
            self.abort_refill()
        while self.untold:
            self.window.add(self.untold.pop())
        self.now += 1000
        expected = set(self.table)
        self.placed.clear()
        for _ in range(10 * len(expected) + 20):
            if self.window.wants_refill():
                self.begin_refill()
                self.read()
                self.end_refill()
            self.place()
        assert not self.table
        assert sorted(self.placed) == sorted(expected)


QueueMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestQueue = QueueMachine.TestCase


def drained(window: NamespaceBacklog) -> list[int]:
    order = []
    while heads := [head for shape in window.shapes() if (head := window.head(shape)) is not None]:
        first = min(heads, key=lambda task: task.key)
        window.discard(first.task_id)
        order.append(first.task_id)
    return order


def an_open_window() -> NamespaceBacklog:
    """One that knows that nothing lies behind it."""
    window = NamespaceBacklog("default", 100)
    window.begin_refill()
    window.end_refill([], exhausted=True)
    return window


def test_priority_goes_before_age_and_age_before_nothing() -> None:
    window = an_open_window()
    for task_id, priority in [(1, 0), (2, 5), (3, -5), (4, 5), (5, 0)]:
        window.add(a_waiting(task_id, priority=priority))
    assert drained(window) == [2, 4, 1, 5, 3]


def test_a_task_that_comes_twice_is_there_once() -> None:
    window = an_open_window()
    for _ in range(3):
        window.add(a_waiting(1))
    assert len(window) == 1
    window.discard(TaskId(1))
    window.add(a_waiting(1))
    assert drained(window) == [1]


def test_a_task_in_backoff_is_not_ready_before_its_time() -> None:
    window = an_open_window()
    window.add(a_waiting(1, ready_at=10.0))
    assert (window.shapes(), window.next_time()) == ([], 10.0)
    window.promote(9.9)
    assert window.shapes() == []
    window.promote(10.0)
    assert drained(window) == [1]
    assert window.next_time() is None


def test_a_new_namespace_reads_the_queue_before_it_believes_anything() -> None:
    backlog = Backlog(window=10)
    backlog.namespace("fresh").add(a_waiting(1, namespace="fresh"))
    assert len(backlog) == 0
    assert backlog.namespace("fresh").wants_refill()


def test_a_long_queue_is_read_in_small_parts_until_the_window_is_half_full() -> None:
    window = NamespaceBacklog("default", 10_000)
    table = [a_waiting(number) for number in range(1, 20_001)]
    read = []
    while window.wants_refill():
        known = len(window)
        read.append(window.begin_refill())
        window.end_refill(table[known : known + read[-1]], exhausted=False)
    assert max(read) <= 2_000
    assert len(window) >= 5_000


def test_the_next_time_is_the_earliest_of_all_namespaces() -> None:
    backlog = Backlog()
    for name, at in (("a", 30.0), ("b", 20.0)):
        window = backlog.namespace(name)
        window.begin_refill()
        window.end_refill([a_waiting(int(at), namespace=name, ready_at=at)], exhausted=True)
    assert backlog.next_time() == 20.0
    backlog.promote(25.0)
    assert backlog.next_time() == 30.0


@pytest.mark.xfail(
    strict=True,
    reason="tasks that wait for a time fill the window, and none behind them is read until one of them is due",
)
def test_tasks_for_tomorrow_do_not_hold_up_those_for_today() -> None:
    window = NamespaceBacklog("default", WINDOW)
    tomorrow = [a_waiting(number, ready_at=1e9) for number in range(1, WINDOW + 1)]
    assert drained_with_refills(window, [*tomorrow, a_waiting(99)]) == [99]


@pytest.mark.xfail(
    strict=True,
    reason="tasks of a shape that fits nowhere fill the window, and none behind them is read until they are gone",
)
def test_tasks_that_fit_nowhere_do_not_hold_up_those_that_do() -> None:
    backlog = Backlog(window=WINDOW)
    table = [a_waiting(number, shape=a_shape(gpu_count=1)) for number in range(1, WINDOW + 1)] + [a_waiting(99)]
    fleet = Fleet()
    fleet.put(some_slots(1), {})
    placed = []
    for _ in range(5):
        refill(backlog.namespace("default"), table)
        placed += [item.task.task_id for item in plan_round(backlog, fleet, {}, limit=10, now=0.0).placements]
    assert placed == [99]


def refill(window: NamespaceBacklog, table: list[Waiting]) -> None:
    """Reads on from a table of waiting tasks, if the window wants it."""
    horizon = window.horizon
    if window.wants_refill() and horizon is not None:
        count = window.begin_refill()
        rows = sorted((task for task in table if task.key > horizon), key=lambda task: task.key)[:count]
        window.end_refill(rows, exhausted=len(rows) < count)


def drained_with_refills(window: NamespaceBacklog, table: list[Waiting]) -> list[int]:
    order = []
    for _ in range(5):
        refill(window, table)
        order += drained(window)
    return order
