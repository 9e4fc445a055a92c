"""The filter of lists: `state=RUNNING AND label.team="x"` as text in, conditions out. Knows nothing of SQL.

Terms are joined by AND. `=` and `!=` compare words, several words apart by commas mean any of them (only `state`,
`agent` and `name`); `id` and `create_time` also take `<`, `<=`, `>` and `>=`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final, NoReturn

from styx_server.core.errors import InvalidRequest, Violation
from styx_server.core.states import TaskState

_TERM = re.compile(r"""\s*([A-Za-z_][\w./-]*)\s*(!=|<=|>=|=|<|>)\s*("(?:[^"\\]|\\.)*"|[^\s"]+)\s*""")
_AND = re.compile(r"AND\s", re.IGNORECASE)
_FIELDS: Final = "agent, create_time, id, label.KEY, name, state"
_TICK: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFilter:
    """Conditions that a task must meet, all of them. None: no condition. Bounds are inclusive."""

    states: tuple[TaskState, ...] | None = None
    not_states: tuple[TaskState, ...] | None = None
    agent_ids: tuple[int, ...] | None = None
    names: tuple[str, ...] | None = None
    labels: dict[str, str] = field(default_factory=dict)
    id_from: int | None = None
    id_to: int | None = None
    time_from: datetime | None = None
    time_to: datetime | None = None


def parse_filter(text: str) -> TaskFilter:
    """Reads a filter.

    Raises:
        InvalidRequest: it cannot be read, or names an unknown field; reason FILTER_INVALID.
    """
    found = TaskFilter()
    position = 0
    while position < len(text.rstrip()):
        term = _TERM.match(text, position)
        if term is None:
            _refuse(f"cannot be read at {text[position : position + 30]!r}; write terms like state=RUNNING AND name=x")
        found = _with_term(found, term[1], term[2], _unquote(term[3]))
        position = term.end()
        if position < len(text):
            joint = _AND.match(text, position)
            if joint is None:
                _refuse(f"needs AND before {text[position : position + 30]!r}")
            position = joint.end()
            if not text[position:].strip():
                _refuse("ends with AND")
    return found


def _with_term(found: TaskFilter, name: str, operator: str, value: str) -> TaskFilter:
    match name:
        case "state":
            return _with_state(found, operator, value)
        case "name":
            _only("name", operator, "=")
            return replace(found, names=tuple(value.split(",")))
        case "agent":
            _only("agent", operator, "=")
            return replace(found, agent_ids=tuple(_number("agent", word, "a") for word in value.split(",")))
        case "id":
            return _with_id(found, operator, _number("id", value, "t"))
        case "create_time":
            return _with_time(found, operator, value)
        case _ if name.startswith("label."):
            _only(name, operator, "=")
            return replace(found, labels={**found.labels, name.removeprefix("label."): value})
        case _:
            _refuse(f"has no field {name!r}; there are {_FIELDS}")


def _with_state(found: TaskFilter, operator: str, value: str) -> TaskFilter:
    _only("state", operator, "=", "!=")
    states = []
    for word in value.split(","):
        if word.upper() not in TaskState.__members__:
            _refuse(f"has no state {word!r}; there are {', '.join(TaskState.__members__)}")
        states.append(TaskState[word.upper()])
    return replace(found, states=tuple(states)) if operator == "=" else replace(found, not_states=tuple(states))


def _with_id(found: TaskFilter, operator: str, number: int) -> TaskFilter:
    match operator:
        case "=":
            return replace(found, id_from=number, id_to=number)
        case ">" | ">=":
            return replace(found, id_from=number + (operator == ">"))
        case "<" | "<=":
            return replace(found, id_to=number - (operator == "<"))
        case _:
            _refuse("takes =, <, <=, > or >= for id")


def _with_time(found: TaskFilter, operator: str, value: str) -> TaskFilter:
    try:
        when = datetime.fromisoformat(value)
    except ValueError:
        _refuse(f"has a time {value!r} that is not RFC 3339, like 2026-01-31T00:00:00Z")
    if when.tzinfo is None:
        _refuse(f"has a time {value!r} without a zone; put Z behind it")
    match operator:
        case ">" | ">=":
            return replace(found, time_from=when + _TICK if operator == ">" else when)
        case "<" | "<=":
            return replace(found, time_to=when - _TICK if operator == "<" else when)
        case _:
            _refuse("takes <, <=, > or >= for create_time")


def _only(name: str, operator: str, *allowed: str) -> None:
    if operator not in allowed:
        _refuse(f"takes {' or '.join(allowed)} for {name}, not {operator}")


def _number(name: str, word: str, letter: str) -> int:
    digits = word.removeprefix(letter)
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 18):
        _refuse(f"has {name} {word!r}, which is no id like {letter}42")
    return int(digits)


def _unquote(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value


def _refuse(text: str) -> NoReturn:
    raise InvalidRequest([Violation(field="filter", description=text)], reason="FILTER_INVALID")
