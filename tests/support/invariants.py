"""What must hold after every test, whatever it did: in the database, and in the server's memory."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import asyncpg

from styx_server.app import App
from styx_server.core.placement.capacity import AgentSlots

_NOTHING: dict[str, str] = {
    "an ended task has a live attempt": """
        select id from tasks where state >= 4 and attempt_state between 1 and 4
    """,
    "live_attempts differs from the tasks with a live attempt": """
        select coalesce(t.id, l.task_id) from (select * from tasks where attempt_state between 1 and 4) t
        full join live_attempts l on l.task_id = t.id and l.fence = t.fence and l.agent_id = t.agent_id
        where t.id is null or l.task_id is null
    """,
    "a fence was used for two attempts": """
        select fence from (select fence from attempts union all select fence from live_attempts) f
        group by fence having count(*) > 1
    """,
    "the attempts of a task are not 1, 2, ... up to its latest": """
        select id from tasks left join lateral (
            select count(*) as ended, coalesce(max(number), 0) as last from attempts where task_id = tasks.id) a on true
        where a.ended <> a.last or tasks.attempt <> a.last + (attempt_state between 1 and 4)::int
    """,
    "fences of a task do not rise": """
        select a.task_id from attempts a join attempts b on a.task_id = b.task_id and a.number < b.number
        where a.fence >= b.fence
    """,
    "a task ended more often than it was opened again": """
        select task_id from task_events group by task_id
        having count(*) filter (where kind in ('ended', 'cancelled') and state >= 4)
            > 1 + count(*) filter (where kind = 'retry_requested')
    """,
    "the state of a task is not that of its last event": """
        select tasks.id from tasks join lateral (
            select state from task_events where task_id = tasks.id order by txid desc, seq desc limit 1) e on true
        where e.state <> tasks.state and not (e.state = 1 and tasks.state = 1)
    """,
    "chunks of a stream overlap": """
        select a.task_id from log_chunks a join log_chunks b
            on a.task_id = b.task_id and a.attempt = b.attempt and a.stream = b.stream
        where a.start_offset < b.start_offset and a.start_offset + a.length > b.start_offset
    """,
    "a chunk is stored twice": """
        select task_id from log_chunks group by task_id, attempt, stream, start_offset having count(*) > 1
    """,
    "a request id was used for a task that is not stored": """
        select id from requests, unnest(task_ids) as id
        where method like 'Submit%' and not exists (select from tasks where tasks.id = id)
    """,
}


async def check_store(connection: asyncpg.Connection) -> None:
    """Fails on the first thing that must never be in the database."""
    for what, statement in _NOTHING.items():
        assert [tuple(row) for row in await connection.fetch(statement)] == [], what
    streams = await connection.fetch("""
        select s.*, coalesce((select sum(length) from log_chunks c where c.task_id = s.task_id and c.attempt = s.attempt
            and c.stream = s.stream), 0)::bigint as chunk_bytes from log_streams s
    """)
    for stream in streams:
        missing = sum(
            min(gap["end"], stream["stored_bytes"]) - gap["start"]
            for gap in json.loads(stream["gaps"] or "[]")
            if gap["start"] < stream["stored_bytes"]
        )
        assert stream["stored_bytes"] == stream["chunk_bytes"] + missing, "bytes of a stream do not add up"


def check_memory(app: App) -> None:
    """Fails when what the ledger counts as free or used is not what attempts hold."""
    shares: Counter[str] = Counter()
    for reservation in app.ledger._held.values():
        shares[reservation.namespace] += max(1, reservation.resources.cpus_milli)
    assert {name: used for name, used in app.ledger.usage.items() if used} == dict(shares)
    for agent in app.ledger.fleet.agents.values():
        assert _free(agent) == _left(agent, app.ledger.held_on(agent.agent_id)), f"capacity of a{agent.agent_id}"


def _free(agent: AgentSlots) -> tuple[int, int, list[int]]:
    return agent.free_cpus_milli, agent.free_memory_bytes, [gpu.index for gpu in agent.free_gpus]


def _left(agent: AgentSlots, held: Any) -> tuple[int, int, list[int]]:
    taken = {index for item in held for index in item.gpu_indexes}
    return (
        agent.total.cpus_milli - sum(item.resources.cpus_milli for item in held),
        agent.total.memory_bytes - sum(item.resources.memory_bytes for item in held),
        [gpu.index for gpu in agent.total.gpus if gpu.index not in taken],
    )
