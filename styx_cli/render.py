"""Answers on stdout: tables for people, the wire's own JSON for machines. `views.py` says what is in a table.

`-o json` prints the proto JSON of a message (a list as an array), `jsonl` one on each line, `yaml` the same data,
`name` the ids alone.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from styx_cli import yaml
from styx_cli.settings import Settings, is_terminal
from styx_cli.tables import Cell, draw, paint

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """One column of a table: its title, its cell for a thing, and whether only `-o wide` shows it."""

    title: str
    cell: Callable[[T], Cell | str]
    wide: bool = False


def put(text: str) -> None:
    """One line of answer."""
    sys.stdout.write(text + "\n")


def put_all(lines: Iterable[str]) -> None:
    """Lines of answer, each as soon as it is known."""
    for line in lines:
        put(line)


def lines_of_list(
    settings: Settings, things: Iterable[T], columns: Sequence[Column[T]], *, name: Callable[[T], str]
) -> Iterator[str]:
    """A list in the format that was asked for; `name` and `jsonl` come one by one."""
    match settings.output:
        case "name":
            yield from (name(thing) for thing in things)
        case "jsonl":
            yield from (json.dumps(data_of(thing)) for thing in things)
        case "json" | "yaml":
            yield encode(settings, [data_of(thing) for thing in things])
        case _:
            yield from table(settings, list(things), columns)


def lines_of_one(settings: Settings, thing: object, *, name: str, people: Callable[[], Iterable[str]]) -> Iterator[str]:
    """One thing in the format that was asked for; `people` makes the lines for a person."""
    if settings.is_for_people:
        yield from people()
    elif settings.output == "name":
        yield name
    else:
        yield encode(settings, data_of(thing))


def encode(settings: Settings, data: Any) -> str:
    """Data as JSON, one line of JSON, or YAML."""
    if settings.output == "yaml":
        return yaml.dump(data)
    return json.dumps(data, indent=2 if settings.output == "json" else None)


def data_of(thing: object) -> Any:
    """The proto JSON of a model, as plain data; plain data as it is."""
    if isinstance(thing, dict | list | str):
        return thing
    from google.protobuf.json_format import MessageToDict

    from styx.wire import to_message

    return MessageToDict(to_message(thing))


def table(settings: Settings, things: Sequence[T], columns: Sequence[Column[T]]) -> list[str]:
    """The lines of a table."""
    shown = [column for column in columns if not column.wide or settings.output == "wide"]
    rows = [[column.cell(thing) for column in shown] for thing in things]
    titles = [column.title for column in shown]
    return draw(titles, rows, width=terminal_width(), colored=settings.colored(sys.stdout))


def styled(settings: Settings, text: str, color: str) -> str:
    """The text in a colour, when stdout shows colours."""
    return paint(text, color, colored=settings.colored(sys.stdout))


def terminal_width() -> int | None:
    """How wide stdout is; None when it is not a terminal."""
    if not is_terminal(sys.stdout):
        return None
    told = os.environ.get("COLUMNS", "")
    try:
        return int(told) if told.isdecimal() and int(told) else os.get_terminal_size(sys.stdout.fileno()).columns or 100
    except OSError:
        return 100
