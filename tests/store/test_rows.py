"""Values to rows and back: what went in comes out, in memory and through PostgreSQL itself."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from styx_server.core.machines.needs import ANY_MACHINE, MachineWish, SpotUse
from styx_server.core.machines.offer import Place
from styx_server.core.placement.capacity import Capacity, Gpu
from styx_server.core.task import Resources, RetryPolicy, Shape, any_shape_of
from styx_server.embedded import PostgresAddress
from styx_server.store.database import connect
from styx_server.store.rows import (
    capacity_from_json,
    capacity_to_json,
    retry_from_json,
    retry_to_json,
    shape_digest,
    shape_from_json,
    shape_to_json,
    to_ms,
)
from tests.support.builders import a_shape

safe_text = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)
big = st.integers(0, 2**60)
places = st.builds(Place, provider=safe_text, region=safe_text, zone=safe_text)
wishes = st.builds(
    MachineWish,
    cpus_exact=st.booleans(),
    memory_exact=st.booleans(),
    gpu_memory_bytes=big,
    places=st.lists(places, max_size=2).map(tuple),
    machine_types=st.lists(safe_text, max_size=2).map(tuple),
    arch=safe_text,
    spot=st.sampled_from([None, *SpotUse]),
    max_price_micros=st.none() | big,
)
plain_shapes = st.builds(
    Shape,
    pool=safe_text,
    resources=st.builds(
        Resources,
        cpus_milli=st.integers(0, 10**8),
        memory_bytes=big,
        gpu_count=st.integers(0, 1024),
        gpu_name=safe_text,
        disk_bytes=big,
        labels=st.dictionaries(safe_text, safe_text, max_size=4).map(lambda labels: tuple(sorted(labels.items()))),
    ),
    machine=st.just(ANY_MACHINE) | wishes,
)
shapes = plain_shapes | st.builds(any_shape_of, st.lists(plain_shapes, min_size=1, max_size=3), ordered=st.booleans())
retries = st.builds(
    RetryPolicy,
    max_retries=st.integers(0, 1000),
    backoff_seconds=st.floats(0, 3e8),
    max_backoff_seconds=st.floats(0, 3e8),
    on_exit_codes=st.lists(st.integers(0, 255), max_size=5).map(tuple),
)
capacities = st.builds(
    Capacity,
    cpus_milli=st.integers(0, 10**9),
    memory_bytes=st.integers(0, 2**64 - 1),
    disk_bytes=st.integers(0, 2**64 - 1),
    gpus=st.lists(st.builds(Gpu, index=st.integers(0, 100), name=safe_text, memory_bytes=big), max_size=4).map(tuple),
)


@given(shapes)
def test_a_shape_survives_being_stored(shape: Shape) -> None:
    assert shape_from_json(json.loads(json.dumps(shape_to_json(shape)))) == shape


@given(shapes, shapes)
def test_shapes_have_the_same_digest_exactly_when_they_are_equal(one: Shape, other: Shape) -> None:
    assert (shape_digest(one) == shape_digest(other)) == (one == other)


def test_the_digest_of_a_shape_is_pinned() -> None:
    # A digest that changed would make every stored shape a stranger.
    shape = a_shape(memory_bytes=1, labels=(("zone", "eu"),))
    assert shape_digest(shape).hex().startswith("d58643c7e332")


def test_a_server_of_the_version_before_leaves_alone_what_it_does_not_understand() -> None:
    # It makes Resources of all but the pool, and looks for agents with all of the labels.
    shape = any_shape_of([Shape(pool="p", resources=Resources(), machine=MachineWish(arch="arm64"))], ordered=True)
    body = shape_to_json(shape)
    assert body.keys() == shape_to_json(a_shape()).keys()
    [(key, value)] = body["labels"]
    assert key == "styx/wish"
    assert "arm64" in value


@given(retries)
def test_a_retry_policy_survives_being_stored(retry: RetryPolicy) -> None:
    stored = retry_to_json(retry)
    assert retry_from_json(None if stored is None else json.loads(stored)) == retry


def test_the_usual_retry_policy_takes_no_room() -> None:
    assert retry_to_json(RetryPolicy()) is None


@given(capacities)
def test_a_capacity_survives_being_stored(capacity: Capacity) -> None:
    assert capacity_from_json(json.loads(json.dumps(capacity_to_json(capacity)))) == capacity


def test_an_agent_that_was_never_connected_has_nothing() -> None:
    assert capacity_from_json({}) == Capacity()


@pytest.mark.parametrize(
    ("seconds", "milliseconds"), [(None, None), (0.0, 0), (0.0004, 0), (1.5, 1500), (3e8, 3 * 10**11)]
)
def test_spans_become_whole_milliseconds(seconds: float | None, milliseconds: int | None) -> None:
    assert to_ms(seconds) == milliseconds


async def test_the_database_gives_back_the_same_values(database: PostgresAddress) -> None:
    extreme = Shape(
        pool="p",
        resources=Resources(
            cpus_milli=10**8,
            memory_bytes=2**60,
            disk_bytes=2**60,
            gpu_count=1024,
            gpu_name='ü"\\ 日本',
            labels=(("a", ""), ("b", "\u00a0'")),
        ),
    )
    store = await connect(**database.arguments())
    row = await store.fetch_row("intern_shape", digest=shape_digest(extreme), body=shape_to_json(extreme))
    again = await store.fetch_row("intern_shape", digest=shape_digest(extreme), body=shape_to_json(extreme))
    assert row is not None
    assert again is not None
    assert row["id"] == again["id"]
    (stored,) = await store.fetch("get_shapes")
    assert shape_from_json(stored["body"]) == extreme
    retry = RetryPolicy(max_retries=1, backoff_seconds=1e-9, max_backoff_seconds=2.5e8 + 0.1, on_exit_codes=(0, 255))
    body = retry_to_json(retry)
    async with store.connection() as connection:
        kept = await connection.fetchrow(
            "insert into task_specs (name, retry, body) values ('n', $1::text::jsonb, $2) returning retry, body",
            body,
            b"\0\xff",
        )
    assert kept is not None
    assert retry_from_json(kept["retry"]) == retry
    assert kept["body"] == b"\0\xff"
    await store.close()
