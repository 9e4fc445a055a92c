"""Watches: all that matches as it is, then every change, and nothing is skipped however late it commits."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import asyncpg
import pytest

from styx_server.core.errors import InvalidRequest, NotFound
from styx_server.core.filter import TaskFilter, parse_filter
from styx_server.core.states import TaskState
from styx_server.core.task import TaskId
from styx_server.services.feed import Change, Cursor, WatchRequest
from tests.support.builders import a_new_task, exited
from tests.support.server import Server, started
from tests.support.until import soon


def wanted(**changes: object) -> WatchRequest:
    defaults: dict[str, object] = {
        "namespace": "default",
        "task_ids": (),
        "filter": TaskFilter(),
        "cursor": None,
        "changes_only": False,
    }
    return WatchRequest(**{**defaults, **changes})  # type: ignore[arg-type]


class Watch:
    """A watch beside the test."""

    def __init__(self, server: Server, **changes: object) -> None:
        self.changes: list[Change] = []
        self._server = server
        self._request = wanted(**changes)
        self.task = started(self._watch())

    async def _watch(self) -> None:
        async with aclosing(self._server.app.feed.watch(self._request)) as changes:
            async for change in changes:
                self.changes.append(change)

    @property
    def synced(self) -> bool:
        return any(change.synced for change in self.changes)

    def seen(self) -> list[tuple[int, TaskState]]:
        """Tasks with their states, in the order in which they came."""
        return [(task.task_id, task.state) for change in self.changes for task in change.tasks]

    async def has(self, task_id: TaskId, state: TaskState) -> None:
        await soon(lambda: (task_id, state) in self.seen(), f"t{task_id} {state.name}")

    async def is_synced(self) -> None:
        await soon(lambda: self.synced or self.task.done(), "the start of the changes")

    async def leaves(self) -> Cursor:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        return self.changes[-1].cursor


async def test_a_watch_shows_what_is_and_then_what_changes(server: Server) -> None:
    ids = await server.submit(*[a_new_task()] * 3)
    watch = Watch(server)
    await watch.is_synced()
    assert sorted(task_id for task_id, _ in watch.seen()) == ids
    agent = await server.agent()
    orders = await agent.takes(3)
    await agent.runs(orders[0], exited(0))
    await watch.has(orders[0].task_id, TaskState.SUCCEEDED)
    (new,) = await server.submit()
    await soon(lambda: any(task_id == new for task_id, _ in watch.seen()), "the new task")
    await watch.leaves()
    assert server.app.feed._watchers == set()


async def test_synced_is_said_once_it_is_true_and_then_always(server: Server) -> None:
    await server.submit(*[a_new_task()] * 3)
    watch = Watch(server)
    await watch.is_synced()
    (task_id,) = await server.submit()
    await watch.has(task_id, TaskState.PENDING)
    marks = [change.synced for change in watch.changes]
    assert marks == sorted(marks)
    assert marks[0] is False
    await watch.leaves()


async def test_a_watch_of_changes_only_leaves_out_what_is(server: Server) -> None:
    await server.submit()
    watch = Watch(server, changes_only=True)
    await watch.is_synced()
    assert watch.seen() == []
    (task_id,) = await server.submit()
    await watch.has(task_id, TaskState.PENDING)
    await watch.leaves()


async def test_a_watch_is_taken_up_again_where_it_was_left(server: Server) -> None:
    watch = Watch(server)
    await watch.is_synced()
    (first,) = await server.submit()
    await watch.has(first, TaskState.PENDING)
    cursor = await watch.leaves()
    (second,) = await server.submit()
    again = Watch(server, cursor=Cursor.parse(str(cursor)))
    await again.has(second, TaskState.PENDING)
    assert first not in [task_id for task_id, _ in again.seen()]
    await again.leaves()


async def test_a_change_that_commits_late_is_not_skipped(server: Server) -> None:
    (late,) = await server.submit()
    watch = Watch(server, changes_only=True)
    await watch.is_synced()
    slow = await asyncpg.connect(**server.address.arguments())
    transaction = slow.transaction()
    await transaction.start()
    # It takes an earlier place in the feed than what is committed below, and is committed after it.
    await slow.execute(
        "insert into task_events (task_id, state, namespace, kind) values ($1, 1, 'default', 'late')", late
    )
    (quick,) = await server.submit()
    rows = await server.rows("select count(*) as count from task_events where task_id = $1", quick)
    assert rows[0]["count"] == 1
    assert watch.seen() == []
    await transaction.commit()
    await slow.close()
    await watch.has(late, TaskState.PENDING)
    await watch.has(quick, TaskState.PENDING)
    await watch.leaves()


async def test_a_change_that_is_rolled_back_is_never_seen(server: Server) -> None:
    watch = Watch(server, changes_only=True)
    await watch.is_synced()

    async def never() -> None:
        async with server.database.transaction() as transaction:
            await transaction._connection.execute(
                "insert into task_events (task_id, state, namespace, kind) values (77, 1, 'default', 'never')"
            )
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await never()
    (task_id,) = await server.submit()
    await watch.has(task_id, TaskState.PENDING)
    assert {seen for seen, _ in watch.seen()} == {task_id}
    await watch.leaves()


async def test_a_watch_of_named_tasks_sees_them_alone(server: Server) -> None:
    one, other = await server.submit(*[a_new_task()] * 2)
    watch = Watch(server, task_ids=(one,))
    await watch.is_synced()
    await server.cancel(other)
    await server.cancel(one)
    await watch.has(one, TaskState.CANCELLED)
    assert {task_id for task_id, _ in watch.seen()} == {one}
    await watch.leaves()


async def test_a_named_task_is_watched_wherever_it_is(server: Server) -> None:
    (task_id,) = await server.submit(namespace="prod")
    watch = Watch(server, task_ids=(task_id,))
    await watch.is_synced()
    await server.cancel(task_id)
    await watch.has(task_id, TaskState.CANCELLED)
    await watch.leaves()


async def test_a_watch_does_not_look_over_the_wall(server: Server) -> None:
    await server.submit(namespace="prod")
    watch = Watch(server)
    await watch.is_synced()
    (hidden,) = await server.submit(namespace="prod")
    (seen,) = await server.submit()
    await watch.has(seen, TaskState.PENDING)
    assert {task_id for task_id, _ in watch.seen()} == {seen}
    assert hidden != seen
    await watch.leaves()


async def test_a_filtered_watch_sees_what_matches_after_each_change(server: Server) -> None:
    watch = Watch(server, filter=parse_filter("state=CANCELLED AND label.team=x AND name!=b"))
    await watch.is_synced()
    kinds = [("a", {"team": "x"}), ("b", {"team": "x"}), ("a", {"team": "y"})]
    ids = [(await server.submit(name=name, labels=labels))[0] for name, labels in kinds]
    await server.cancel(*ids)
    await watch.has(ids[0], TaskState.CANCELLED)
    await watch.leaves()
    assert watch.seen() == [(ids[0], TaskState.CANCELLED)]


async def test_a_watch_of_a_task_that_does_not_exist_is_not_found(server: Server) -> None:
    with pytest.raises(NotFound, match="t99"):
        await anext(server.app.feed.watch(wanted(task_ids=(TaskId(99),))))


async def test_more_tasks_than_a_page_all_come(server: Server) -> None:
    ids = await server.submit(*[a_new_task()] * 2500)
    watch = Watch(server)
    await watch.is_synced()
    assert sorted(task_id for task_id, _ in watch.seen()) == ids
    more = await server.submit(*[a_new_task()] * 2500)
    await soon(lambda: len({task_id for task_id, _ in watch.seen()}) == 5000, "all changes")
    assert {task_id for task_id, _ in watch.seen()} == {*ids, *more}
    await watch.leaves()


async def test_every_state_that_a_task_reaches_for_good_is_seen_by_every_watch(server: Server) -> None:
    watches = [Watch(server) for _ in range(3)]
    for watch in watches:
        await watch.is_synced()
    agent = await server.agent()
    ids = await server.submit(*[a_new_task()] * 40)
    for number in range(40):
        await agent.runs((await agent.takes(number + 1))[number], exited(number % 2))
    for watch in watches:
        for number, task_id in enumerate(order.task_id for order in agent.assigned):
            await watch.has(task_id, TaskState.FAILED if number % 2 else TaskState.SUCCEEDED)
        await watch.leaves()
    assert len(ids) == 40


@pytest.mark.parametrize(
    "text", ["", "1", "1.2.3", "a.b", "-1.2", "1.9999999999999999999", "1.²", "99999999999999999999.1"]
)
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        Cursor.parse(text)
    assert caught.value.reason == "PAGE_TOKEN_INVALID"


def test_a_cursor_comes_back_from_its_text() -> None:
    cursor = Cursor(txid=2**63, seq=2**63 - 1)
    assert Cursor.parse(str(cursor)) == cursor


async def test_one_who_waits_for_the_end_hears_of_nothing_else(server: Server) -> None:
    agent = await server.agent()
    (task_id,) = await server.submit()
    (order,) = await agent.takes(1)
    watch = Watch(server, task_ids=(task_id,), filter=parse_filter("state!=PENDING,RUNNING,CANCELLING"))
    await watch.is_synced()
    await agent.runs(order, exited(0))
    await watch.has(task_id, TaskState.SUCCEEDED)
    await watch.leaves()
    assert watch.seen() == [(task_id, TaskState.SUCCEEDED)]


async def test_a_commit_wakes_those_whom_it_concerns(server: Server) -> None:
    one, other = await server.submit(*[a_new_task()] * 2)
    feed = server.app.feed
    asked = {"one": {"task_ids": (one,)}, "all": {}, "ends": {"filter": parse_filter("state=FAILED,CANCELLED")}}
    watches = []
    watchers = {}
    for name, request in asked.items():
        watches.append(Watch(server, **request))
        await watches[-1].is_synced()
        (watchers[name],) = feed._watchers - set(watchers.values())

    def woken(going: list[TaskId], ended: list[TaskId]) -> set[str]:
        for watcher in feed._watchers:
            watcher.event.clear()
        feed.changed(going, ended)
        return {name for name, watcher in watchers.items() if watcher.event.is_set()}

    assert woken([one], []) == {"one", "all"}
    assert woken([other], []) == {"all"}
    assert woken([], [other]) == {"all", "ends"}
    assert woken([], []) == set()
    for watch in watches:
        await watch.leaves()
