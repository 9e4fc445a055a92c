"""The filter of lists: `state=RUNNING AND label.team="x"` as text in, conditions out. Knows nothing of SQL.

Terms are joined by AND and all of them hold. `=` and `!=` compare words; several words apart by commas, without quotes,
mean any of them (only `state`, `agent` and `name`). `id` and `create_time` take `<`, `<=`, `>` and `>=`, `id` also `=`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar

from styx_server.core.errors import InvalidRequest, Violation
from styx_server.core.states import TaskState

_TERM = re.compile(r"""\s*([A-Za-z_][\w./-]*)\s*(!=|<=|>=|=|<|>)\s*("(?:[^"\\]|\\.)*"|[^\s"]+)\s*""")
_AND = re.compile(r"AND\s", re.IGNORECASE)
_FIELDS: Final = "agent, create_time, id, label.KEY, name, state"
_TICK: Final = timedelta(microseconds=1)

Word = TypeVar("Word")
Bound = TypeVar("Bound")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFilter:
    """Conditions that a task must meet, all of them. None: no condition; empty: met by nothing. Bounds inclusive."""

    states: tuple[TaskState, ...] | None = None
    not_states: tuple[TaskState, ...] | None = None
    agent_ids: tuple[int, ...] | None = None
    not_agent_ids: tuple[int, ...] | None = None
    names: tuple[str, ...] | None = None
    not_names: tuple[str, ...] | None = None
    labels: dict[str, str] = field(default_factory=dict)
    not_labels: tuple[tuple[str, str], ...] = ()
    id_from: int | None = None
    id_to: int | None = None
    time_from: datetime | None = None
    time_to: datetime | None = None


def parse_filter(text: str) -> TaskFilter:
    """Reads a filter.

    Raises:
        InvalidRequest: it cannot be read, or names an unknown field; reason FILTER_INVALID.
    """
    if "\0" in text:
        raise _refusal("has a NUL character, which nothing contains")
    found = TaskFilter()
    position = 0
    while position < len(text.rstrip()):
        term = _TERM.match(text, position)
        if term is None:
            raise _refusal(
                f"cannot be read at {text[position : position + 30]!r}; write terms like state=RUNNING AND name=x"
            )
        found = _with_term(found, term[1], term[2], term[3])
        position = term.end()
        if position < len(text):
            joint = _AND.match(text, position)
            if joint is None:
                raise _refusal(f"needs AND before {text[position : position + 30]!r}")
            position = joint.end()
            if not text[position:].strip():
                raise _refusal("ends with AND")
    return found


def _with_term(found: TaskFilter, name: str, operator: str, raw: str) -> TaskFilter:
    if name in ("state", "name", "agent") or name.startswith("label."):
        if operator not in ("=", "!="):
            raise _refusal(f"takes = or != for {name}, not {operator}")
        return _with_words(found, name, raw, wanted=operator == "=")
    value = _unquote(raw)
    match name:
        case "id":
            return _with_id(found, operator, _number("id", value, "t"))
        case "create_time":
            return _with_time(found, operator, _time(value))
        case _:
            raise _refusal(f"has no field {name!r}; there are {_FIELDS}")


def _with_words(found: TaskFilter, name: str, raw: str, *, wanted: bool) -> TaskFilter:
    words = (_unquote(raw),) if raw.startswith('"') else tuple(raw.split(","))
    match name:
        case "state":
            states = tuple(_state(word) for word in words)
            if wanted:
                return replace(found, states=_both(found.states, states))
            return replace(found, not_states=_either(found.not_states, states))
        case "name":
            if wanted:
                return replace(found, names=_both(found.names, words))
            return replace(found, not_names=_either(found.not_names, words))
        case "agent":
            agents = tuple(_number("agent", word, "a") for word in words)
            if wanted:
                return replace(found, agent_ids=_both(found.agent_ids, agents))
            return replace(found, not_agent_ids=_either(found.not_agent_ids, agents))
        case _:
            return _with_label(found, name.removeprefix("label."), _unquote(raw), wanted=wanted)


def _with_label(found: TaskFilter, key: str, value: str, *, wanted: bool) -> TaskFilter:
    if not key:
        raise _refusal("has a label without a key; write label.KEY=value")
    if not wanted:
        return replace(found, not_labels=(*found.not_labels, (key, value)))
    if found.labels.get(key, value) != value:
        # No task has two values for one label.
        return replace(found, states=())
    return replace(found, labels={**found.labels, key: value})


def _with_id(found: TaskFilter, operator: str, number: int) -> TaskFilter:
    match operator:
        case "=":
            return _with_id(_with_id(found, ">=", number), "<=", number)
        case ">" | ">=":
            return replace(found, id_from=_tighter(max, found.id_from, number + (operator == ">")))
        case "<" | "<=":
            return replace(found, id_to=_tighter(min, found.id_to, number - (operator == "<")))
        case _:
            raise _refusal("takes =, <, <=, > or >= for id")


def _with_time(found: TaskFilter, operator: str, when: datetime) -> TaskFilter:
    try:
        match operator:
            case ">" | ">=":
                first = when + _TICK if operator == ">" else when
                return replace(found, time_from=_tighter(max, found.time_from, first))
            case "<" | "<=":
                last = when - _TICK if operator == "<" else when
                return replace(found, time_to=_tighter(min, found.time_to, last))
            case _:
                raise _refusal("takes <, <=, > or >= for create_time")
    except OverflowError:
        raise _refusal("has a time before the year 1 or after 9999") from None


def _time(value: str) -> datetime:
    try:
        when = datetime.fromisoformat(value)
    except ValueError:
        raise _refusal(f"has a time {value!r} that is not RFC 3339, like 2026-01-31T00:00:00Z") from None
    if when.tzinfo is None:
        raise _refusal(f"has a time {value!r} without a zone; put Z behind it")
    try:
        return when.astimezone(UTC)
    except OverflowError:
        raise _refusal(f"has a time {value!r} before the year 1 or after 9999") from None


def _state(word: str) -> TaskState:
    if word.upper() not in TaskState.__members__:
        raise _refusal(f"has no state {word!r}; there are {', '.join(TaskState.__members__)}")
    return TaskState[word.upper()]


def _number(name: str, word: str, letter: str) -> int:
    digits = word.removeprefix(letter)
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 18):
        raise _refusal(f"has {name} {word!r}, which is no id like {letter}42")
    return int(digits)


def _both(before: tuple[Word, ...] | None, words: tuple[Word, ...]) -> tuple[Word, ...]:
    return words if before is None else tuple(word for word in before if word in words)


def _either(before: tuple[Word, ...] | None, words: tuple[Word, ...]) -> tuple[Word, ...]:
    return (*(before or ()), *words)


def _tighter(choose: Callable[[Bound, Bound], Bound], before: Bound | None, bound: Bound) -> Bound:
    return bound if before is None else choose(before, bound)


def _unquote(value: str) -> str:
    return re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value


def _refusal(text: str) -> InvalidRequest:
    return InvalidRequest([Violation(field="filter", description=text)], reason="FILTER_INVALID")
