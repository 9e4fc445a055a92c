"""The hot queries find their rows by index, and what changes a task never touches an index."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from styx_server.store.database import Database, connect
from styx_server.store.queries import load
from tests.support.builders import NOW
from tests.support.postgres import DatabaseFactory

ROWS = 20_000
BIG = {"tasks", "task_specs", "live_attempts", "attempts", "task_events", "log_chunks", "log_streams", "requests"}

FILL = """
insert into shapes (digest, body) values ('d', '{}');
insert into agents (name, key_digest, pool)
select 'a', sha256(i::text::bytea), 'default' from generate_series(1, 20) i;
insert into agent_leases (agent_id, epoch, connected) select id, 1, true from agents;
update leaders set term = 1, replica_id = gen_random_uuid();
insert into task_specs (name, body) select 'n' || i, 'x' from generate_series(1, 20000) i;
insert into tasks (id, spec_id, shape_id, namespace, priority, state, attempt_state, attempt, fence, agent_id,
    assign_time, end_time)
select i, i, 1, 'default', i % 3, s.state, s.attempt_state, 1, i, i % 20 + 1, now(),
    case when s.state = 4 then now() end
from generate_series(1, 20000) i,
    lateral (select case when i % 20 = 0 then 2 when i % 20 = 1 then 1 else 4 end as state,
        case when i % 20 = 0 then 3 else 5 end as attempt_state) s;
insert into live_attempts select id, agent_id, fence from tasks where attempt_state = 3;
insert into attempts (task_id, number, fence, agent_id, cause, assign_time, end_time, outcome)
select id, 1, fence, agent_id, 'first', now(), now(), 1 from tasks where attempt_state = 5;
select setval('fences', 200000);
insert into task_events (task_id, state, namespace, kind)
select i, 1, 'default', 'x' from generate_series(1, 20000) i;
insert into log_streams (task_id, attempt, stream, fence, stored_bytes)
select i, 1, 1, i, 10 from generate_series(1, 20000) i;
insert into log_chunks (task_id, attempt, stream, start_offset, length, codec, data)
select i % 200, 1, 1, i / 200 * 10, 10, 1, 'xxxxxxxxxx' from generate_series(1, 20000) i;
insert into requests (token_id, method, request_id, digest)
select 1, 'm', i::text, 'd' from generate_series(1, 20000) i;
"""

END: dict[str, Any] = {
    "seen_desired": [1],
    "states": [4],
    "reasons": [""],
    "messages": [""],
    "start_times": [None],
    "end_times": [NOW],
    "not_before": [None],
    "failures": [0],
    "infra_failures": [0],
    "preemptions": [0],
    "next_causes": [None],
    "exit_codes": [0],
    "outcomes": [1],
    "signals": [0],
    "outcome_messages": [""],
    "cpu_ms": [0],
    "max_memory_bytes": [0],
    "agent_ids": [1],
}


LOGS: dict[str, Any] = {
    "log_ids": [ROWS + 1],
    "log_attempts": [1],
    "log_streams": [1],
    "log_fences": [20],
    "totals": [0],
    "digests": [b""],
    "gaps": [None],
}


def ends(ids: list[int]) -> dict[str, Any]:
    return {"ids": ids, "fences": ids, **{name: value * len(ids) for name, value in END.items()}, **LOGS}


def starts(ids: list[int], fences: list[int], agents: list[int]) -> dict[str, Any]:
    size = len(ids)
    return {
        "ids": ids,
        "fences": fences,
        "agent_ids": agents,
        "epochs": [1] * size,
        "attempt_states": [3] * size,
        "start_times": [NOW] * size,
    }


def assigns(ids: list[int], fences: list[int]) -> dict[str, Any]:
    size = len(ids)
    return {
        "ids": ids,
        "fences": fences,
        "agent_ids": [1] * size,
        "epochs": [1] * size,
        "gpus": [None] * size,
        "alternatives": [None] * size,
        "term": 1,
        "now": None,
    }


SUBMIT: dict[str, Any] = {
    "specs": [1, 1],
    "task_calls": [1, 1],
    "shape_ids": [1, 1],
    "namespaces": ["default"] * 2,
    "priorities": [0, 0],
    "at_most_once": [False, False],
    "disconnect_ms": [None, None],
    "not_before": [None, None],
    "names": ["n"],
    "labels": ["{}"],
    "retries": [None],
    "bodies": [b""],
    "spec_calls": [1],
    "calls": [1],
    "token_ids": [1],
    "methods": ["m"],
    "request_ids": ["new"],
    "digests": [b""],
    "firsts": [1],
    "lasts": [2],
}
LIVE = list(range(20, 420, 20))
WAITING = list(range(1, 401, 20))
CHUNKS = {"task_id": 7, "attempt": 1, "stream": 1, "position": 100, "count": 4}

HOT: list[tuple[str, dict[str, Any]]] = [
    ("submit_tasks", SUBMIT),
    ("assign_tasks", assigns(WAITING, [ROWS * 20 + number for number in WAITING])),
    ("start_attempts", starts(LIVE, LIVE, [number % 20 + 1 for number in LIVE])),
    ("end_attempts", ends(LIVE)),
    ("read_facts", {"ids": LIVE}),
    ("read_queue", {"namespace": "default", "priority": 32767, "id": 0, "count": 100}),
    ("live_attempts_of", {"agent_ids": [3]}),
    ("find_live_fences", {"agent_id": 3, "fences": LIVE}),
    ("read_held", {"task_ids": LIVE, "fences": LIVE}),
    ("get_timeline", {"task_id": 7}),
    ("get_attempts", {"task_id": 7}),
    ("get_tasks", {"ids": LIVE, "with_body": True}),
    ("get_status", {"id": 7}),
    ("get_attempt_state", {"id": 7}),
    ("get_streams", {"task_id": 7, "attempt": None}),
    ("get_streams_by_task", {"task_ids": LIVE}),
    ("read_chunks", {**CHUNKS, "longest": 262_144}),
    ("read_chunks_back", CHUNKS),
    ("cancel_waiting", {"ids": WAITING, "message": "", "now": None}),
    ("cancel_live", {"ids": LIVE, "message": "", "grace_ms": None}),
    ("reopen_task", {"id": 7}),
    ("preempt_live", {"agent_ids": [3]}),
    ("read_orders", {"agent_ids": [3], "replica_id": UUID(int=0)}),
    ("tasks_on_agent", {"agent_id": 3, "count": 100}),
    ("set_draining", {"id": 3, "draining": True, "deadline": None, "now": None}),
    ("find_requests", {"token_ids": [1], "methods": ["m"], "request_ids": ["7"]}),
    (
        "advance_streams",
        {"task_ids": LIVE, "attempts": [1] * 20, "streams": [1] * 20, "starts": [10] * 20, "ends": [20] * 20}
        | {"gaps": [None] * 20, "fences": LIVE, "chunk_task_id": LIVE, "chunk_attempt": [1] * 20}
        | {"chunk_stream": [1] * 20, "chunk_start_offset": [10] * 20, "chunk_length": [10] * 20}
        | {"chunk_codec": [1] * 20, "chunk_times": [b""] * 20, "chunk_data": [b"ten bytes."] * 20}
        | {"chunk_time": [NOW] * 20},
    ),
    (
        "list_task_ids",
        {"namespace": "default", "below": 10_000, "count": 100, "states": None, "not_states": None, "names": None}
        | {"not_names": None, "labels": None, "not_labels": None, "agent_ids": None, "not_agent_ids": None}
        | {"id_from": None, "id_to": None, "time_from": None, "time_to": None},
    ),
]


@pytest.fixture(scope="module")
async def store(databases_with_schema: DatabaseFactory) -> AsyncIterator[Database]:
    """A database with 20,000 tasks, most of which have ended."""
    async with databases_with_schema.fresh() as address:
        database = await connect(**address.arguments())
        async with database.connection() as connection:
            await connection.execute(FILL)
            await connection.execute("vacuum analyze")
        yield database
        await database.close()


@pytest.mark.parametrize(("name", "values"), HOT, ids=[name for name, _ in HOT])
async def test_a_hot_query_reads_no_big_table_from_end_to_end(
    store: Database, name: str, values: dict[str, Any]
) -> None:
    query = load()[name]
    async with store.connection() as connection:
        text = await connection.fetchval(f"explain (format json) {query.sql}", *query.arguments(values))
    scans = [
        table
        for node in nodes(json.loads(text)[0]["Plan"])
        if node["Node Type"] in ("Seq Scan", "Parallel Seq Scan")
        and (table := node.get("Relation Name", "")).removesuffix("_default") in BIG
        # Empty partitions of other days are no work.
        and node["Plan Rows"] > 1
    ]
    assert scans == []


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from nodes(child)


async def test_a_watch_that_is_up_to_date_reads_only_what_is_new(store: Database) -> None:
    query = load()["read_feed"]
    async with store.connection() as connection:
        last = await connection.fetchrow("select txid::text as txid, seq from task_events order by 1, 2 desc limit 1")
        values = {"txid": last["txid"], "seq": last["seq"] - 50, "count": 1000}
        text = await connection.fetchval(f"explain (format json) {query.sql}", *query.arguments(values))
    used = [node for node in nodes(json.loads(text)[0]["Plan"]) if "task_events" in node.get("Relation Name", "")]
    assert {node["Node Type"] for node in used} <= {"Index Scan", "Bitmap Heap Scan", "Index Only Scan"}
    assert all("txid" in node.get("Index Cond", node.get("Recheck Cond", "")) for node in used)


@pytest.mark.parametrize(("name", "values"), [("submit_tasks", SUBMIT), ("end_attempts", ends(LIVE))])
async def test_of_a_batch_nothing_is_compared_all_with_all(store: Database, name: str, values: dict[str, Any]) -> None:
    query = load()[name]
    async with store.connection() as connection:
        text = await connection.fetchval(f"explain (format json) {query.sql}", *query.arguments(values))
    found = list(nodes(json.loads(text)[0]["Plan"]))
    assert not [node for node in found if node.get("Join Type") == "Semi"]
    assert any("hashed SubPlan" in node.get("Filter", "") for node in found)


async def test_the_queue_is_read_in_its_order_and_no_more_than_is_wanted_is_sorted(store: Database) -> None:
    query = load()["read_queue"]
    values: dict[str, Any] = {"namespace": "default", "priority": 1, "id": 300, "count": 10}
    async with store.connection() as connection:
        text = await connection.fetchval(f"explain (format json) {query.sql}", *query.arguments(values))
        rows = await connection.fetch(query.sql, *query.arguments(values))
    found = list(nodes(json.loads(text)[0]["Plan"]))
    assert {node["Plans"][0]["Node Type"] for node in found if node["Node Type"] == "Sort"} <= {"Limit"}
    assert {node["Node Type"] for node in found if node.get("Relation Name") == "tasks"} == {"Index Scan"}
    assert [(row["priority"], row["id"]) for row in rows[:3]] == [(1, 301), (1, 361), (1, 421)]


CHANGING = {
    "fence",
    "assign_time",
    "start_time",
    "end_time",
    "not_before",
    "agent_id",
    "attempt",
    "exit_code",
    "stop_grace_ms",
    "state",
    "desired",
    "attempt_state",
    "failures",
    "infra_failures",
    "preemptions",
    "attempt_cause",
    "next_cause",
    "reason",
    "message",
    "gpu_indexes",
}


async def test_no_index_of_tasks_mentions_a_column_that_changes(store: Database) -> None:
    async with store.connection() as connection:
        definitions = await connection.fetch(
            "select indexname, indexdef from pg_indexes where tablename in ('tasks', 'agent_leases')"
        )
    assert {row["indexname"] for row in definitions} == {"tasks_pkey", "tasks_queue", "agent_leases_pkey"}
    for row in definitions:
        _, _, where = row["indexdef"].partition(" ON ")
        words = set(where.replace("(", " ").replace(")", " ").replace(",", " ").split())
        assert not words & (CHANGING - {"agent_id"})


async def test_a_tasks_whole_life_touches_no_index(store: Database) -> None:
    ids = list(range(10_001, 20_001, 400))
    async with store.connection() as connection:
        before = await updates(connection)
        fences = [ROWS * 30 + number for number in ids]
        await run(connection, "assign_tasks", assigns(ids, fences))
        await run(connection, "start_attempts", starts(ids, fences, [1] * len(ids)))
        await run(connection, "end_attempts", {**ends(ids), "fences": fences})
        after = await updates(connection)
    assert after["n_tup_upd"] - before["n_tup_upd"] == 3 * len(ids)
    assert after["n_tup_hot_upd"] - before["n_tup_hot_upd"] == 3 * len(ids)


async def test_a_beat_touches_no_index(store: Database) -> None:
    async with store.connection() as connection:
        before = await updates(connection, "agent_leases")
        await run(
            connection,
            "renew_leases",
            {"agent_ids": [1, 2, 3], "epochs": [1, 1, 1], "leavings": [False] * 3, "owings": [False] * 3, "now": None},
        )
        after = await updates(connection, "agent_leases")
    assert after["n_tup_hot_upd"] - before["n_tup_hot_upd"] == 3


async def run(connection: Any, name: str, values: dict[str, Any]) -> None:
    query = load()[name]
    rows = await connection.fetch(query.sql, *query.arguments(values))
    assert rows, name


async def updates(connection: Any, table: str = "tasks") -> asyncpg.Record:
    await connection.execute("select pg_stat_force_next_flush()")
    await connection.execute("select pg_stat_clear_snapshot()")
    return await connection.fetchrow(
        "select n_tup_upd, n_tup_hot_upd from pg_stat_user_tables where relname = $1", table
    )
