"""Kinds of words on the command line: durations, sizes, pairs. Each says what it wants when it gets something else."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Final

import click

from styx.units import parse_cpus, parse_duration, parse_exact, parse_gpus, parse_size

_ALTERNATIVE_WORDS: Final = (
    "cpus",
    "memory",
    "gpus",
    "gpu_memory",
    "disk",
    "infra",
    "machine_type",
    "spot",
    "max_hourly_cost",
    "arch",
)


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


class Cpus(click.ParamType):  # type: ignore[type-arg]
    """`4` or `4+`, at least; `=4`, exactly."""

    name = "cpus"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Checks the text; the SDK reads it."""
        try:
            parse_cpus(parse_exact(str(value))[0])
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return str(value)


class Memory(click.ParamType):  # type: ignore[type-arg]
    """`2GiB` or `2GiB+`, at least; `=2GiB`, exactly."""

    name = "memory"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Checks the text; the SDK reads it."""
        try:
            parse_size(parse_exact(str(value))[0])
        except ValueError as error:
            self.fail(str(error), param, ctx)
        return str(value)


class Alternative(click.ParamType):  # type: ignore[type-arg]
    """`gpus=A100:8 infra=aws spot`: what a task needs otherwise, in the words of the options."""

    name = "needs"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        """Reads the text; what stands behind each = is read by the SDK."""
        needs: dict[str, Any] = {}
        for part in shlex.split(str(value)):
            word, equals, content = part.partition("=")
            name = word.replace("-", "_")
            if name not in _ALTERNATIVE_WORDS or not (equals or name == "spot"):
                there = ", ".join(each.replace("_", "-") for each in _ALTERNATIVE_WORDS)
                self.fail(f"{part!r} is nothing that an alternative can need; write NEED=VALUE of {there}", param, ctx)
            needs[name] = content if equals else True
        if not needs:
            self.fail("it needs nothing; write it like 'gpus=A100:8 infra=aws'", param, ctx)
        if "max_hourly_cost" in needs:
            needs["max_hourly_cost"] = click.FLOAT.convert(needs["max_hourly_cost"], param, ctx)
        return needs


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
