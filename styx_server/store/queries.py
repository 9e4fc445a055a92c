"""Loads the named queries of `sql/*.sql`.

A query stands under `-- name: word`, then one sentence, then SQL with `:named` parameters, which become `$1`, `$2`, ...
in the order in which they first appear.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import resources

_HEAD = re.compile(r"^-- name: ([a-z_]+)\n-- (.+)\n", re.MULTILINE)
_PARAMETER = re.compile(r"(?<![:\w]):([a-z_][a-z0-9_]*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One named query.

    Attributes:
        sql: text with numbered parameters.
        parameters: their names, in the order of their numbers.
        sentence: what it does.
    """

    name: str
    sql: str
    parameters: tuple[str, ...]
    sentence: str

    def arguments(self, values: dict[str, object]) -> list[object]:
        """The values in order.

        Raises:
            TypeError: one is missing, or one too many.
        """
        if values.keys() != set(self.parameters):
            wrong = sorted(values.keys() ^ set(self.parameters))
            raise TypeError(f"query {self.name} takes {list(self.parameters)}; wrong: {wrong}")
        return [values[name] for name in self.parameters]


@cache
def load() -> dict[str, Query]:
    """Every query by name.

    Raises:
        ValueError: two queries have the same name, or a file has text outside of a query.
    """
    found: dict[str, Query] = {}
    for file in resources.files("styx_server.store.sql").iterdir():
        if not file.name.endswith(".sql"):
            continue
        for query in parse(file.read_text("utf-8"), file.name):
            if query.name in found:
                raise ValueError(f"query {query.name} is defined twice")
            found[query.name] = query
    return found


def parse(text: str, file_name: str) -> list[Query]:
    """The queries of one file."""
    heads = list(_HEAD.finditer(text))
    if not heads or text[: heads[0].start()].strip():
        raise ValueError(f"{file_name} does not start with '-- name: ...' and a sentence")
    ends = [head.start() for head in heads[1:]] + [len(text)]
    return [_query(head, text[head.end() : end]) for head, end in zip(heads, ends, strict=True)]


def _query(head: re.Match[str], body: str) -> Query:
    names = list(dict.fromkeys(_PARAMETER.findall(body)))
    numbers = {name: f"${index}" for index, name in enumerate(names, start=1)}
    sql = _PARAMETER.sub(lambda match: numbers[match[1]], body)
    return Query(name=head[1], sql=sql.strip().rstrip(";"), parameters=tuple(names), sentence=head[2])
