"""Providers by name: makes those that a server is told to use. Nothing of the others is imported.

What an operator says of one is a table of the server's file, with the fields of the provider's own settings as keys.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeVar, get_origin, get_type_hints

from styx_server.providers.ports import Provider

NAMES: Final = ("local", "fake", "aws", "gcp", "kubernetes")
REMOTE: Final = frozenset({"aws", "gcp", "kubernetes"})
"""Their machines are other computers: they fetch the agent, and find the servers, by an address."""

T = TypeVar("T")


class BadProviderSettings(ValueError):
    """What is said of a provider is no good; the message says what would be."""


def make_provider(name: str, data_dir: Path, said: Mapping[str, Any] = MappingProxyType({})) -> Provider:
    """One provider; connects to nothing yet.

    Args:
        name: one of NAMES.
        data_dir: the server's; machines of this computer have a folder in it.
        said: the provider's table of the server's file.

    Raises:
        BadProviderSettings: a setting is unknown, missing, or of another kind.
    """
    match name:
        case "local":
            from styx_server.providers.local import LocalProvider

            return LocalProvider(data_dir / "local-machines", **_known(said, {"max_machines": int}, name))
        case "fake":
            from styx_server.providers.fake import FakeProvider

            return FakeProvider(data_dir / "fake-cloud", **_known(said, {}, name))
        case "aws":
            from styx_server.providers.aws import AwsProvider, AwsSettings

            return AwsProvider(read_settings(AwsSettings, said, name))
        case "gcp":
            from styx_server.providers.gcp import GcpProvider, GcpSettings

            return GcpProvider(read_settings(GcpSettings, said, name))
        case "kubernetes":
            from styx_server.providers.kubernetes import KubernetesProvider, KubernetesSettings

            return KubernetesProvider(read_settings(KubernetesSettings, said, name))
        case _:
            raise LookupError(name)


def regions_of(name: str, said: Mapping[str, Any]) -> tuple[str, ...]:
    """Where machines may be rented from a provider; none: wherever it has offers."""
    return tuple(map(str, said.get("regions", ()))) if name in {"aws", "gcp"} else ()


def types_of(name: str, said: Mapping[str, Any]) -> tuple[str, ...]:
    """Which types may be rented from a provider, with `*` for anything; none: all that it has."""
    return tuple(map(str, said.get("machine_types", ()))) if name == "aws" else ()


def read_settings(kind: type[T], said: Mapping[str, Any], name: str) -> T:
    """The settings of a provider from its table.

    Raises:
        BadProviderSettings: a setting is unknown, missing, or of another kind.
    """
    hints = get_type_hints(kind)
    known = {field.name: get_origin(hints[field.name]) or hints[field.name] for field in fields(kind)}  # type: ignore[arg-type]
    for field in fields(kind):  # type: ignore[arg-type]
        if field.name not in said and field.default is MISSING and field.default_factory is MISSING:
            raise BadProviderSettings(f"[{name}] lacks {field.name}; see docs/providers/{name}.md")
    values = _known(said, known, name)
    try:
        return kind(**values)
    except ValueError as error:
        raise BadProviderSettings(f"[{name}]: {error}") from None


def _known(said: Mapping[str, Any], known: Mapping[str, Any], name: str) -> dict[str, Any]:
    values = {}
    for key, value in said.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; see docs/providers/{name}.md"
            raise BadProviderSettings(f"[{name}] has an unknown setting {key}{hint}")
        values[key] = _as(known[key], value, f"[{name}] {key}")
    return values


def _as(kind: Any, value: Any, where: str) -> Any:
    """A value of TOML as the field wants it: lists become tuples, whole numbers may stand for others."""
    if kind is tuple and isinstance(value, list):
        return tuple(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is Mapping or getattr(kind, "__name__", "") == "Mapping":
        kind = dict
    if not isinstance(kind, type) or (isinstance(value, kind) and not (kind is int and isinstance(value, bool))):
        return value
    words = {tuple: "a list", dict: "a table", str: "a text", int: "a whole number", bool: "true or false"}
    raise BadProviderSettings(f"{where} must be {words.get(kind, kind.__name__)}, not {value!r}")
