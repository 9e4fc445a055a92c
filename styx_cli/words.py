"""Kinds of words on the command line: durations, sizes, pairs. Each says what it wants when it gets something else."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta

import click

from styx.units import parse_duration, parse_gpus, parse_size


class Duration(click.ParamType):  # type: ignore[type-arg]
    """`500ms`, `2s`, `10m`, `1h30m`; with `or_never` also `never`."""

    name = "duration"

    def __init__(self, *, or_never: bool = False) -> None:
        self._or_never = or_never

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> timedelta | str:
        """Reads the text."""
        if isinstance(value, timedelta):
            return value
        text = str(value)
        if self._or_never and text.strip().lower() == "never":
            return "never"
        try:
            return parse_duration(text)
        except ValueError as error:
            self.fail(str(error) + (", or never" if self._or_never else ""), param, ctx)


class Size(click.ParamType):  # type: ignore[type-arg]
    """`512MiB`, `2GiB`, or a number of bytes."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Reads the text."""
        try:
            return value if isinstance(value, int) else parse_size(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Gpus(click.ParamType):  # type: ignore[type-arg]
    """`A100:2`, `A100` or `2`."""

    name = "gpus"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Checks the text; the SDK reads it."""
        try:
            parse_gpus(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return str(value)


class Pair(click.ParamType):  # type: ignore[type-arg]
    """`KEY=VALUE`; with `from_environment` also `KEY`, which copies the caller's variable."""

    name = "pair"

    def __init__(self, *, from_environment: bool = False) -> None:
        self._from_environment = from_environment

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Reads the text."""
        key, equals, content = str(value).partition("=")
        if not key or not (equals or self._from_environment):
            self.fail(f"{value!r} is not KEY=VALUE", param, ctx)
        if equals:
            return key, content
        if key not in os.environ:
            self.fail(f"{key} is not set here; write {key}=VALUE", param, ctx)
        return key, os.environ[key]


def mapping(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Pairs as a mapping; the last of equal keys wins."""
    return dict(pairs)
