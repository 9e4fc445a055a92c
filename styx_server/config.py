"""Settings of the server: flags, then `STYX_*` variables, then a TOML file, then defaults. Read once, at the start.

`styx-server check-config` says what was read from where.
"""

from __future__ import annotations

import argparse
import difflib
import ipaddress
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from styx.errors import InvalidAddress
from styx.locate import read_address, split_addresses
from styx_server.providers.registry import NAMES


class ConfigError(Exception):
    """A setting is wrong; the message says which, where it came from, and what would be right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a server is told.

    Attributes:
        data_dir: folder for the admin token, the address file and the embedded database.
        host: address to listen on.
        grpc_port: 0 picks a free one.
        http_port: 0 picks a free one.
        grpc_advertise: `host:port` that clients shall dial, when it is not this host and port.
        http_addresses: of all servers on the same database, this one's too, as clients reach them.
        database_url: a PostgreSQL of one's own; empty: an embedded one.
        database_wait: seconds to wait at the start for a database that is away.
        unsafe_database: whether to use a database that may lose what it has confirmed.
        retention_days: how long events and output are kept at least; 0: for ever.
        insecure: whether to listen without TLS on an address that others can reach.
        tls_cert: PEM file with the certificate chain; together with `tls_key`.
        tls_key: PEM file with the key.
        admin_token: an administrator's token that is chosen instead of made.
        providers: who machines are rented from; none: nobody.
        deployment_id: of the database that this server is meant for; for servers that rent from a database of others.
        provider_tables: what the file says of each, by name.
        lease_scale: all times of the lease are multiplied by it, from 0.05 to 1; every replica must have the same.
    """

    data_dir: Path
    host: str = "127.0.0.1"
    grpc_port: int = 50051
    http_port: int = 8080
    grpc_advertise: str = ""
    http_addresses: tuple[str, ...] = ()
    database_url: str = ""
    database_wait: float = 60.0
    unsafe_database: bool = False
    retention_days: int = 30
    insecure: bool = False
    tls_cert: str = ""
    tls_key: str = ""
    admin_token: str = ""
    lease_scale: float = 1.0
    log_format: str = "auto"
    log_level: str = "info"
    die_with_parent: bool = False
    providers: tuple[str, ...] = ()
    deployment_id: str = ""
    provider_tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def tls(self) -> bool:
        """Whether both ports speak TLS."""
        return bool(self.tls_cert)


_HELP: Final[dict[str, str]] = {
    "data_dir": "folder for the admin token, the address file and the embedded database",
    "host": "address to listen on (default 127.0.0.1)",
    "grpc_port": "port for gRPC; 0 picks a free one (default 50051)",
    "http_port": "port for HTTP; 0 picks a free one (default 8080)",
    "grpc_advertise": "host:port that clients shall dial, if it is not this host and port",
    "http_addresses": "http://... of all servers on the same database, with commas; clients are told",
    "database_url": "postgresql://... of your own database; without it an embedded one is started",
    "database_wait": "seconds to wait at the start for a database that is away (default 60)",
    "unsafe_database": "use a database that can lose what it has confirmed (fsync or synchronous_commit is off)",
    "retention_days": "days that events and output of tasks are kept at least; 0 keeps them for ever (default 30)",
    "insecure": "listen without TLS on an address that others can reach",
    "tls_cert": "PEM file with the certificate chain",
    "tls_key": "PEM file with the key of the certificate",
    "admin_token": "the administrator's token, instead of one that is made (better as a variable than as a flag)",
    "lease_scale": "multiplies all times of agents' leases, 0.05 to 1; for tests and quick networks (default 1)",
    "log_format": "console, json, or auto: console on a terminal (default auto)",
    "log_level": "debug, info, warning or error (default info)",
    "providers": f"who machines are rented from, with commas: {', '.join(NAMES)} (default: nobody)",
    "deployment_id": "the database that this server is meant for, when it is to rent and another server rented from it",
    "die_with_parent": "stop in order when the parent process ends",
}
_FLAGS: Final = ("unsafe_database", "insecure", "die_with_parent")
_CHOICES: Final = {
    "log_format": ("auto", "console", "json"),
    "log_level": ("debug", "info", "warning", "error"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sourced:
    """Settings, and where each came from."""

    settings: Settings
    sources: Mapping[str, str]


def load(arguments: Sequence[str], environment: Mapping[str, str]) -> Sourced:
    """Reads settings.

    Raises:
        ConfigError: one of them is wrong.
        SystemExit: the flags are wrong, or only help was wanted.
    """
    flags = {name: value for name, value in vars(_parser().parse_args(arguments)).items() if value is not None}
    path = flags.pop("config", None) or environment.get("STYX_CONFIG")
    layers: list[tuple[str, Mapping[str, Any]]] = [("default", {"data_dir": default_data_dir(environment)})]
    tables: Mapping[str, Mapping[str, Any]] = {}
    if path:
        values_of_file, tables = _read_file(Path(path))
        layers.append((f"file {path}", values_of_file))
    variables = {name: environment[f"STYX_{name.upper()}"] for name in _HELP if environment.get(f"STYX_{name.upper()}")}
    layers.append(("environment", variables))
    layers.append(("flag", flags))
    values: dict[str, Any] = {}
    sources = {each.name: "default" for each in fields(Settings) if each.name != "provider_tables"}
    for source, layer in layers:
        for name, raw in layer.items():
            values[name] = _parse(name, raw, source)
            sources[name] = source
    settings = Settings(**values, provider_tables=tables)
    _check(settings)
    return Sourced(settings=settings, sources=sources)


def default_data_dir(environment: Mapping[str, str]) -> Path:
    """Where a server keeps its files when it is not told."""
    if base := environment.get("XDG_DATA_HOME"):
        return Path(base) / "styx"
    return Path(environment.get("HOME") or Path.home()) / ".local/share/styx"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="styx-server",
        description="The control plane of Styx.",
        epilog="Each flag is also a variable (--grpc-port: STYX_GRPC_PORT) and a key of the file (grpc_port). "
        "`styx-server check-config` shows what was read from where.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help="TOML file with settings")
    for name, text in _HELP.items():
        flag = "--" + name.replace("_", "-")
        if name in _FLAGS:
            parser.add_argument(flag, dest=name, action="store_const", const="true", help=text)
        else:
            parser.add_argument(flag, dest=name, metavar=name.upper().rsplit("_", maxsplit=1)[-1], help=text)
    return parser


def _read_file(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Settings, and the tables of providers."""
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"the file {path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the file {path} is not TOML: {error}") from None
    tables = {name: values.pop(name) for name in NAMES if isinstance(values.get(name), dict)}
    for name in values.keys() - _HELP.keys():
        near = difflib.get_close_matches(name, _HELP, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(_HELP)}"
        raise ConfigError(f"the file {path} has an unknown setting {name}{hint}")
    return values, tables


def _parse(name: str, raw: object, source: str) -> object:
    readers: dict[str, Callable[[str], object]] = {
        "data_dir": lambda text: Path(text).expanduser().absolute(),
        "grpc_port": _port,
        "http_port": _port,
        "database_wait": _seconds,
        "retention_days": _days,
        "lease_scale": _scale,
        "http_addresses": _addresses,
        "providers": _providers,
        **dict.fromkeys(_FLAGS, _flag),
    }
    text = ",".join(map(str, raw)) if isinstance(raw, list) else str(raw)
    try:
        value = readers.get(name, str)(text)
        if name in _CHOICES and value not in _CHOICES[name]:
            raise ValueError(f"must be one of {', '.join(_CHOICES[name])}")
    except ValueError as error:
        raise ConfigError(f"{name} ({source}) is {text!r}: {error}") from None
    return value


def _port(text: str) -> int:
    if not text.isdigit() or int(text) > 65535:
        raise ValueError("must be a port, 0 to 65535")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 86_400:
        raise ValueError("must be seconds, 0 to 86400")
    return value


def _days(text: str) -> int:
    if not text.isdigit() or int(text) > 36_500:
        raise ValueError("must be whole days, 0 to 36500")
    return int(text)


def _scale(text: str) -> float:
    scale = float(text)
    if not 0.05 <= scale <= 1:
        raise ValueError("must be from 0.05 to 1")
    return scale


def _addresses(text: str) -> tuple[str, ...]:
    addresses = split_addresses(text)
    for address in addresses:
        if not address.startswith(("http://", "https://")):
            raise ValueError(f"{address} must start with http:// or https://")
        try:
            read_address(address)
        except InvalidAddress as error:
            raise ValueError(str(error)) from None
    return addresses


def _providers(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(NAMES)}"
            raise ValueError(f"names {name}, which is no provider{hint}")
    return names


def _flag(text: str) -> bool:
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in words:
        raise ValueError("must be true or false")
    return words[text.lower()]


def _check(settings: Settings) -> None:
    if bool(settings.tls_cert) != bool(settings.tls_key):
        raise ConfigError("tls_cert and tls_key go together; one of them is missing")
    if settings.database_url and not settings.database_url.startswith(("postgresql://", "postgres://")):
        raise ConfigError("database_url must start with postgresql://")
    if not (settings.tls or settings.insecure or is_loopback(settings.host)):
        raise ConfigError(
            f"host {settings.host} can be reached by others, and tokens would cross the network in the clear; "
            "set tls_cert and tls_key, or say --insecure if something else protects that network"
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
