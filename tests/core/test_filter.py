"""The filter of lists: its grammar as a table, its conditions as conjunctions, and no text that breaks it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from styx_server.core.errors import InvalidRequest
from styx_server.core.filter import TaskFilter, parse_filter
from styx_server.core.states import TaskState

TICK = timedelta(microseconds=1)
T0 = datetime(2026, 1, 31, tzinfo=UTC)

READABLE: list[tuple[str, dict[str, Any]]] = [
    ("", {}),
    ("   ", {}),
    ("state=RUNNING", {"states": (TaskState.RUNNING,)}),
    ("state=running", {"states": (TaskState.RUNNING,)}),
    ("state = FAILED,TIMED_OUT", {"states": (TaskState.FAILED, TaskState.TIMED_OUT)}),
    ("state!=SUCCEEDED", {"not_states": (TaskState.SUCCEEDED,)}),
    ('name="train"', {"names": ("train",)}),
    ('name="a b"', {"names": ("a b",)}),
    (r'name="a \"b\" \\c"', {"names": ('a "b" \\c',)}),
    ("name=a,b", {"names": ("a", "b")}),
    ('name="a, b"', {"names": ("a, b",)}),
    ("name!=a,b", {"not_names": ("a", "b")}),
    ("agent!=a3", {"not_agent_ids": (3,)}),
    ("label.team!=x", {"not_labels": (("team", "x"),)}),
    ("label.a!=1 AND label.a!=2", {"not_labels": (("a", "1"), ("a", "2"))}),
    ('name=""', {"names": ("",)}),
    ("agent=a3", {"agent_ids": (3,)}),
    ("agent=3,a4", {"agent_ids": (3, 4)}),
    ('label.team="x"', {"labels": {"team": "x"}}),
    ("label.app.example/x_1-y=v", {"labels": {"app.example/x_1-y": "v"}}),
    ("label.a=1 AND label.b=2", {"labels": {"a": "1", "b": "2"}}),
    ("id=t5", {"id_from": 5, "id_to": 5}),
    ("id>5", {"id_from": 6}),
    ("id>=t5", {"id_from": 5}),
    ("id<5", {"id_to": 4}),
    ("id<=5", {"id_to": 5}),
    ("id>t5 AND id<=t9", {"id_from": 6, "id_to": 9}),
    ("create_time>=2026-01-31T00:00:00Z", {"time_from": T0}),
    ("create_time>2026-01-31T00:00:00Z", {"time_from": T0 + TICK}),
    ("create_time<2026-01-31T01:00:00+01:00", {"time_to": T0 - TICK}),
    ("create_time<=2026-01-31T00:00:00Z", {"time_to": T0}),
    ("state=RUNNING and name=x", {"states": (TaskState.RUNNING,), "names": ("x",)}),
    ("  state=RUNNING   AND\tname=x  ", {"states": (TaskState.RUNNING,), "names": ("x",)}),
]

UNREADABLE = [
    "state",
    "state=",
    "=RUNNING",
    "state=NOPE",
    "state=RUNNING,",
    "state>RUNNING",
    "state=RUNNING name=x",
    "state=RUNNING AND",
    "state=RUNNING AND ",
    "AND state=RUNNING",
    "state=RUNNING OR name=x",
    "state=RUNNING ANDname=x",
    'name="open',
    'name=a"b',
    "agent=b3",
    "agent=a",
    "agent=a-3",
    "agent=a٣",
    "id=x",
    "id!=5",
    "id=99999999999999999999",
    "name>x",
    "label.a<=1",
    "create_time=2026-01-31T00:00:00Z",
    "create_time>yesterday",
    "create_time>2026-01-31T00:00:00",
    "create_time>9999-12-31T23:59:59.999999Z",
    "create_time<0001-01-01T00:00:00Z",
    "create_time>=0001-01-01T00:00:00+14:00",
    "unknown=1",
    "label.=x",
    "label=x",
    "label.a>1",
    'name="a\0b"',
    'label.a="\0"',
    "'; drop table tasks; --",
]


@pytest.mark.parametrize(("text", "fields"), READABLE, ids=[text for text, _ in READABLE])
def test_the_grammar_is_read(text: str, fields: dict[str, Any]) -> None:
    assert parse_filter(text) == TaskFilter(**fields)


@pytest.mark.parametrize("text", UNREADABLE)
def test_what_is_outside_of_the_grammar_is_refused_with_its_reason(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_filter(text)
    assert caught.value.reason == "FILTER_INVALID"
    assert [violation.field for violation in caught.value.violations] == ["filter"]


NARROWED: list[tuple[str, dict[str, Any]]] = [
    ("id>5 AND id>3", {"id_from": 6}),
    ("id<5 AND id<9", {"id_to": 4}),
    ("id=5 AND id<9", {"id_from": 5, "id_to": 5}),
    ("create_time>=2026-01-31T00:00:00Z AND create_time>=2025-01-31T00:00:00Z", {"time_from": T0}),
    ("create_time<=2026-01-31T00:00:00Z AND create_time<=2027-01-31T00:00:00Z", {"time_to": T0}),
    ("state=RUNNING,FAILED AND state=FAILED", {"states": (TaskState.FAILED,)}),
    ("state=RUNNING AND state=FAILED", {"states": ()}),
    ("state!=RUNNING AND state!=FAILED", {"not_states": (TaskState.RUNNING, TaskState.FAILED)}),
    ("name=a,b AND name=b,c", {"names": ("b",)}),
    ("agent=1,2 AND agent=2", {"agent_ids": (2,)}),
]


@pytest.mark.parametrize(("text", "fields"), NARROWED, ids=[text for text, _ in NARROWED])
def test_terms_about_the_same_field_all_hold(text: str, fields: dict[str, Any]) -> None:
    assert parse_filter(text) == TaskFilter(**fields)


def test_two_values_for_one_label_match_nothing() -> None:
    assert parse_filter("label.a=1 AND label.a=2").states == ()
    assert parse_filter("label.a=1 AND label.a=1") == TaskFilter(labels={"a": "1"})


OPERATORS = ["=", "!=", "<", ">", "<=", ">=", '"', "\\", ",", " ", "AND", "and", "\0", "\n", "é", "٣"]
FIELDS = ["state", "name", "agent", "id", "create_time", "label.x", "RUNNING", "a3", "t5", "2026-01-31T00:00:00Z"]
EDGES = [
    "9999-12-31T23:59:59.999999Z",
    "0001-01-01",
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59-23:59",
]
words = st.sampled_from([*OPERATORS, *FIELDS, *EDGES])


@given(st.one_of(st.text(), st.lists(words, max_size=14).map("".join), st.lists(words, max_size=14).map(" ".join)))
@example('name="\\')
def test_no_text_breaks_it(text: str) -> None:
    found = TaskFilter()
    try:
        found = parse_filter(text)
    except InvalidRequest as refused:
        reason = refused.reason
    else:
        reason = "FILTER_INVALID"
    assert reason == "FILTER_INVALID"
    for time in (found.time_from, found.time_to):
        assert time is None or time.astimezone(UTC)
    for number in (found.id_from, found.id_to):
        assert number is None or -1 <= number <= 2**63 - 1
