"""Ids as people write them: `t42`, `42` and 42 are the same task. Pure."""

from __future__ import annotations

import re

from styx.errors import FieldViolation, InvalidRequest

Id = str | int


def task_id(value: Id) -> str:
    """The id of a task as the server writes it, for example `t42`.

    Raises:
        InvalidRequest: it is not the id of a task.
    """
    return _id(value, "t", "task")


def agent_id(value: Id) -> str:
    """The id of an agent as the server writes it, for example `a3`.

    Raises:
        InvalidRequest: it is not the id of an agent.
    """
    return _id(value, "a", "agent")


def instance_id(value: Id) -> str:
    """The id of a rented machine as the server writes it, for example `i9`.

    Raises:
        InvalidRequest: it is not the id of an instance.
    """
    return _id(value, "i", "instance")


def _id(value: Id, letter: str, kind: str) -> str:
    text = str(value).strip()
    match = re.fullmatch(rf"{letter}?0*(\d{{1,18}})", text, re.ASCII)
    if not match or isinstance(value, bool):
        article = "an" if kind[0] in "aeiou" else "a"
        refusal = InvalidRequest(
            f"{text[:40]!r} is not the id of {article} {kind}", remedy=f"ids look like {letter}42, or just 42"
        )
        refusal.violations = (FieldViolation(field=f"{kind}_id", description=refusal.message),)
        raise refusal
    return letter + match.group(1)
