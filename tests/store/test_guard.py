"""What must never be is refused by the database itself, whatever a program believes.

The trigger is held against the table in `core/states.py` on a real row, for every pair of states and every way in which
the fence can change.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from itertools import product
from typing import Any

import asyncpg
import pytest

from styx_server.core.machines.instance import INSTANCE_TRANSITIONS, InstanceState
from styx_server.core.states import ATTEMPT_TRANSITIONS, TASK_TRANSITIONS, AttemptState, TaskState
from tests.support.postgres import DatabaseFactory, connected

TRIGGER = "tasks_transition_legal"

# Tries every step from every row that may exist, each in a subtransaction of its own.
WALK = """
create function walk(fence_step int, attempt_step int)
returns table (s1 int, a1 int, s2 int, a2 int, refusal text) language plpgsql as $$
declare place int; before record;
begin
    delete from tasks;
    for place in 0..47 loop
        begin
            insert into tasks (id, spec_id, shape_id, namespace, state, attempt_state, desired, end_time, agent_id,
                fence, attempt)
            values (place, 1, 1, 'default', place / 6 + 1, place % 6, 2, case when place / 6 >= 3 then now() end, 1,
                10, 3);
        exception when check_violation then null;
        end;
    end loop;
    for before in select id, state, attempt_state from tasks order by id loop
        for place in 0..47 loop
            s1 := before.state; a1 := before.attempt_state; s2 := place / 6 + 1; a2 := place % 6; refusal := '';
            begin
                update tasks set state = s2, attempt_state = a2, end_time = case when s2 >= 4 then now() end,
                    fence = fence + fence_step, attempt = attempt + attempt_step
                where id = before.id;
                raise exception using errcode = 'TW001';
            exception
                when sqlstate 'TW001' then null;
                when check_violation then get stacked diagnostics refusal = constraint_name;
            end;
            return next;
        end loop;
    end loop;
end $$
"""
FENCE_STEPS = [(0, 0), (1, 1), (5, 1), (1, 0), (0, 1), (-1, 1), (1, 2)]


@pytest.fixture(scope="module")
async def one_database(databases_with_schema: DatabaseFactory) -> AsyncIterator[asyncpg.Connection]:
    """A database for all tests here; each leaves it as it was."""
    async with databases_with_schema.fresh() as address, connected(address) as connection:
        yield connection


@pytest.fixture
async def connection(one_database: asyncpg.Connection) -> AsyncIterator[asyncpg.Connection]:
    """A transaction that will have been for nothing."""
    transaction = one_database.transaction()
    await transaction.start()
    yield one_database
    await transaction.rollback()


def is_legal(step: tuple[int, int, int, int], fence_step: int, attempt_step: int) -> bool:
    """Whether the core's table, and the rule that a fence belongs to one attempt, allow a step."""
    before, after = TaskState(step[0]), TaskState(step[2])
    had, has = AttemptState(step[1]), AttemptState(step[3])
    if before != after and (before, after) not in TASK_TRANSITIONS:
        return False
    if had != has and (had, has) not in ATTEMPT_TRANSITIONS:
        return False
    is_new_attempt = not had.live and has is AttemptState.ASSIGNED
    if is_new_attempt:
        return fence_step > 0 and attempt_step == 1
    return fence_step == 0 and attempt_step == 0


async def test_the_trigger_agrees_with_the_table_of_the_core(connection: asyncpg.Connection) -> None:
    await connection.execute(WALK)
    wrong = []
    for fence_step, attempt_step in FENCE_STEPS:
        rows = await connection.fetch("select * from walk($1, $2)", fence_step, attempt_step)
        assert len(rows) == 24 * 48
        for row in rows:
            step = (row["s1"], row["a1"], row["s2"], row["a2"])
            if (row["refusal"] != TRIGGER) != is_legal(step, fence_step, attempt_step):
                wrong.append((step, fence_step, attempt_step, row["refusal"]))
    assert wrong == []


async def test_every_row_that_may_exist_can_be_told_by_its_states(connection: asyncpg.Connection) -> None:
    await connection.execute(WALK)
    rows = await connection.fetch("select distinct s1, a1 from walk(0, 0) order by 1, 2")
    states = {(TaskState(row["s1"]), AttemptState(row["a1"])) for row in rows}
    expected = {
        (state, attempt)
        for state, attempt in product(TaskState, AttemptState)
        if (state.ended and not attempt.live)
        or state is TaskState.PENDING
        or (state in (TaskState.RUNNING, TaskState.CANCELLING) and attempt.live)
    }
    assert states == expected


NOW = datetime(2030, 1, 2, tzinfo=UTC)
GOOD: dict[str, Any] = {"id": 1, "spec_id": 1, "shape_id": 1, "namespace": "default"}
LIVE = {"state": 2, "attempt_state": 3, "agent_id": 1, "fence": 1, "attempt": 1}


@pytest.mark.parametrize(
    ("columns", "constraint"),
    [
        ({"state": 0}, "tasks_state_known"),
        ({"state": 9}, "tasks_"),
        ({"attempt_state": 6}, "tasks_attempt_state_known"),
        ({"attempt_state": -1}, "tasks_attempt_state_known"),
        ({"desired": 3}, "tasks_desired_known"),
        ({**LIVE, "state": 4}, "tasks_ended_has"),
        ({"state": 4}, "tasks_ended_has_end_time"),
        ({"state": 2}, "tasks_running_has_attempt"),
        ({"state": 3, "desired": 2}, "tasks_running_has_attempt"),
        ({**LIVE, "agent_id": None}, "tasks_live_has_agent"),
        ({**LIVE, "fence": 0}, "tasks_live_has_agent"),
        ({**LIVE, "state": 3}, "tasks_cancelling_wants_stop"),
    ],
)
async def test_a_row_that_contradicts_itself_is_refused(
    connection: asyncpg.Connection, columns: dict[str, Any], constraint: str
) -> None:
    with pytest.raises(asyncpg.CheckViolationError) as caught:
        await insert(connection, "tasks", {**GOOD, **columns})
    assert str(caught.value.constraint_name).startswith(constraint)


async def test_a_good_row_passes(connection: asyncpg.Connection) -> None:
    await insert(connection, "tasks", GOOD)
    await insert(connection, "tasks", {**GOOD, **LIVE, "id": 2})


async def test_a_task_cannot_have_two_live_attempts(connection: asyncpg.Connection) -> None:
    await insert(connection, "live_attempts", {"task_id": 1, "agent_id": 1, "fence": 1})
    with pytest.raises(asyncpg.UniqueViolationError):
        await insert(connection, "live_attempts", {"task_id": 1, "agent_id": 2, "fence": 2})


async def test_a_fence_cannot_be_live_twice(connection: asyncpg.Connection) -> None:
    await insert(connection, "live_attempts", {"task_id": 1, "agent_id": 1, "fence": 1})
    with pytest.raises(asyncpg.UniqueViolationError):
        await insert(connection, "live_attempts", {"task_id": 2, "agent_id": 1, "fence": 1})


async def test_a_mark_that_nobody_knows_is_refused(connection: asyncpg.Connection) -> None:
    live = {"task_id": 1, "agent_id": 1, "fence": 1}
    await insert(connection, "live_attempts", {**live, "stop_cause": 2})
    with pytest.raises(asyncpg.CheckViolationError):
        await insert(connection, "live_attempts", {**live, "task_id": 2, "fence": 2, "stop_cause": 1})


async def test_a_deadline_without_a_drain_is_refused(connection: asyncpg.Connection) -> None:
    agent = {"name": "a", "key_digest": b"k" * 32, "pool": "default", "drain_deadline": NOW}
    await insert(connection, "agents", {**agent, "draining": True})
    with pytest.raises(asyncpg.CheckViolationError):
        await insert(connection, "agents", {**agent, "key_digest": b"l" * 32, "draining": False})


async def test_an_attempt_cannot_end_twice(connection: asyncpg.Connection) -> None:
    statement = """
        insert into attempts (task_id, number, fence, agent_id, cause, assign_time, end_time, outcome)
        values (1, 1, $1, 1, 'first', now(), now(), $2)
    """
    await connection.execute(statement, 1, 1)
    with pytest.raises(asyncpg.UniqueViolationError):
        async with connection.transaction():
            await connection.execute(statement, 2, 1)
    for outcome in (0, 13):
        with pytest.raises(asyncpg.CheckViolationError):
            async with connection.transaction():
                await connection.execute(statement, 3, outcome)


@pytest.mark.parametrize(
    "columns",
    [
        {"kind": "other"},
        {"digest": b"short"},
        {"kind": "join"},
        {"kind": "join", "max_uses": 1, "pool": "default"},
        {"max_uses": 1, "uses": 2},
        {"max_uses": 0},
    ],
)
async def test_a_token_without_bounds_or_digest_is_refused(
    connection: asyncpg.Connection, columns: dict[str, Any]
) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await insert(connection, "tokens", {"kind": "admin", "digest": b"d" * 32, **columns})


async def test_a_stream_is_never_longer_than_what_was_written(connection: asyncpg.Connection) -> None:
    stream = {"task_id": 1, "attempt": 1, "stream": 1, "fence": 1, "stored_bytes": 5, "total_bytes": 4}
    with pytest.raises(asyncpg.CheckViolationError):
        await insert(connection, "log_streams", stream)
    with pytest.raises(asyncpg.CheckViolationError):
        await insert(connection, "log_streams", {**stream, "stream": 3, "total_bytes": None})


ENDED = {**GOOD, "state": 4, "attempt_state": 5, "agent_id": 1, "fence": 7, "attempt": 1, "exit_code": 0}


@pytest.mark.parametrize(
    "change",
    [
        "exit_code = 1",
        "message = 'other'",
        "end_time = end_time + interval '1 second'",
        "start_time = now()",
        "agent_id = 2",
        "failures = 1",
        "desired = 2",
        "attempt_state = 1, attempt = 2, fence = 8",
    ],
)
@pytest.mark.parametrize("state", [state for state in TaskState if state.ended])
async def test_what_a_task_ended_with_is_never_changed(
    connection: asyncpg.Connection, state: TaskState, change: str
) -> None:
    desired = 2 if state is TaskState.CANCELLED else 1
    await insert(connection, "tasks", {**ENDED, "state": state, "desired": desired, "end_time": NOW})
    with pytest.raises(asyncpg.CheckViolationError) as caught:
        async with connection.transaction():
            await connection.execute(f"update tasks set {change}")  # noqa: S608
    assert caught.value.constraint_name in (
        "tasks_written_once", "tasks_transition_legal", "tasks_ended_has_no_live_attempt",
    )  # fmt: skip
    assert await connection.fetchval("select (exit_code, message, fence, end_time) from tasks") == (0, "", 7, NOW)


async def test_an_ended_task_is_opened_again_unless_it_succeeded(connection: asyncpg.Connection) -> None:
    opening = "update tasks set state = 1, end_time = null, exit_code = null"
    await insert(connection, "tasks", {**ENDED, "end_time": NOW})
    with pytest.raises(asyncpg.CheckViolationError, match="may not go from state 4"):
        async with connection.transaction():
            await connection.execute(opening)
    await insert(connection, "tasks", {**ENDED, "id": 2, "state": 5, "end_time": NOW})
    assert await connection.execute(f"{opening} where id = 2") == "UPDATE 1"


@pytest.mark.parametrize("change", ["outcome = 2", "exit_code = 1", "fence = fence + 1", "end_time = now()"])
async def test_an_attempt_that_is_over_is_never_changed(connection: asyncpg.Connection, change: str) -> None:
    over = {"task_id": 1, "number": 1, "fence": 1, "agent_id": 1, "cause": "first", "outcome": 1}
    await insert(connection, "attempts", {**over, "assign_time": NOW, "end_time": NOW})
    with pytest.raises(asyncpg.CheckViolationError, match="attempts 1: what is over is written once"):
        async with connection.transaction():
            await connection.execute(f"update attempts set {change}")  # noqa: S608


async def test_a_fence_that_was_reserved_is_never_reserved_again(one_database: asyncpg.Connection) -> None:
    async def reserve() -> int:
        return int(await one_database.fetchval("select max(nextval('fences')) from generate_series(1, 10)"))

    first = await reserve()
    transaction = one_database.transaction()
    await transaction.start()
    second = await reserve()
    await transaction.rollback()
    assert first < second < await reserve()
    row = await one_database.fetchrow("select cycle, increment_by from pg_sequences where sequencename = 'fences'")
    assert row is not None
    assert tuple(row) == (False, 1)


async def insert(connection: asyncpg.Connection, table: str, columns: dict[str, Any]) -> None:
    names = ", ".join(columns)
    places = ", ".join(f"${number}" for number in range(1, len(columns) + 1))
    async with connection.transaction():
        await connection.execute(f"insert into {table} ({names}) values ({places})", *columns.values())  # noqa: S608


async def test_an_instance_takes_only_steps_of_the_cores_table(connection: asyncpg.Connection) -> None:
    row = await connection.fetchrow(
        "insert into instances (id, pool, provider, region, zone, machine_type, spot, price_micros, offer, key,"
        " cloud_id, expire_time) values (1, 'p', 'fake', 'r', '', 't', false, 1, '{}', 'k', 'c', now()) returning id"
    )
    assert row is not None
    wrong = []
    for before, after in product(InstanceState, InstanceState):
        # Set without the trigger, stepped with it.
        await connection.execute("alter table instances disable trigger instances_transition_legal")
        await _set_instance(connection, row["id"], before)
        await connection.execute("alter table instances enable trigger instances_transition_legal")
        refused = False
        try:
            async with connection.transaction():
                await _set_instance(connection, row["id"], after)
        except asyncpg.CheckViolationError as error:
            refused = error.constraint_name == "instances_transition_legal"
        if refused == (before == after or (before, after) in INSTANCE_TRANSITIONS):
            wrong.append((before, after, refused))
    assert wrong == []


async def _set_instance(connection: asyncpg.Connection, number: int, state: InstanceState) -> None:
    end_time = NOW if state.ended else None
    await connection.execute("update instances set state = $2, end_time = $3 where id = $1", number, state, end_time)
