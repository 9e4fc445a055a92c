"""The filter of lists of rented machines: `pool=gpu AND state=READY,DRAINING` as text in, conditions out."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from styx_server.core.errors import InvalidRequest, Violation
from styx_server.core.machines.instance import InstanceState

_TERM = re.compile(r"""\s*([A-Za-z_]+)\s*(!=|=)\s*("[^"]*"|[^\s"]+)\s*""")
_AND = re.compile(r"AND\s", re.IGNORECASE)
_FIELDS: Final = {
    "agent": "agent_ids",
    "pool": "pools",
    "provider": "providers",
    "region": "regions",
    "state": "states",
}
_MAX_DIGITS: Final = 18

Words = tuple[int | str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceFilter:
    """Conditions that an instance must meet, all of them. None: no condition; empty: met by nothing."""

    states: Words | None = None
    not_states: Words | None = None
    pools: Words | None = None
    not_pools: Words | None = None
    providers: Words | None = None
    not_providers: Words | None = None
    regions: Words | None = None
    not_regions: Words | None = None
    agent_ids: Words | None = None
    not_agent_ids: Words | None = None


def parse_instance_filter(text: str) -> InstanceFilter:
    """Reads a filter.

    Raises:
        InvalidRequest: it cannot be read, or names an unknown field; reason FILTER_INVALID.
    """
    found = InstanceFilter()
    rest = text.strip()
    if "\0" in rest:
        raise _refusal("has a NUL character, which nothing contains")
    while rest:
        term = _TERM.match(rest)
        if term is None:
            raise _refusal(f"cannot be read at {rest[:30]!r}; write terms like pool=gpu AND state=READY")
        found = _with_term(found, term[1], term[3], wanted=term[2] == "=")
        rest = rest[term.end() :]
        if rest:
            joint = _AND.match(rest)
            if joint is None:
                raise _refusal(f"needs AND and a term at {rest[:30]!r}")
            rest = rest[joint.end() :]
    return found


def _with_term(found: InstanceFilter, name: str, raw: str, *, wanted: bool) -> InstanceFilter:
    if name not in _FIELDS:
        raise _refusal(f"has no field {name!r}; there are {', '.join(_FIELDS)}")
    words = (raw.strip('"'),) if raw.startswith('"') else tuple(raw.split(","))
    values: Words = tuple(_value(name, word) for word in words)
    field = _FIELDS[name] if wanted else f"not_{_FIELDS[name]}"
    before: Words | None = getattr(found, field)
    if before is not None:
        values = tuple(value for value in values if value in before) if wanted else (*before, *values)
    return replace(found, **{field: values})


def _value(name: str, word: str) -> int | str:
    match name:
        case "state":
            if word not in InstanceState.__members__:
                raise _refusal(f"has no state {word!r}; there are {', '.join(InstanceState.__members__)}")
            return int(InstanceState[word])
        case "agent":
            digits = word.removeprefix("a")
            if not (digits.isascii() and digits.isdigit() and len(digits) <= _MAX_DIGITS):
                raise _refusal(f"has an agent {word!r}, which is no id like a3")
            return int(digits)
        case _:
            return word


def _refusal(text: str) -> InvalidRequest:
    return InvalidRequest([Violation(field="filter", description=text)], reason="FILTER_INVALID")
