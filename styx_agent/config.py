"""What the agent was told: flags, then `STYX_*` variables, then a TOML file, then defaults.

Turns words into one frozen value and refuses what it does not understand. Next: `app.py`, which is built from it.
"""

from __future__ import annotations

import argparse
import difflib
import re
import socket
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from styx.errors import InvalidAddress
from styx.locate import read_address, split_addresses
from styx_agent.errors import BadSettings
from styx_agent.notices.setting import NoticeSetting, read_setting

_UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "T": 1000**4}
_UNITS |= {f"{letter}i": 1024**power for power, letter in enumerate("KMGT", start=1)}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]i?)?B?", re.IGNORECASE)
_MAX_NAME = 200
_RESERVED = "styx/"
"""Labels that begin so tell what the server knows of a rented machine; a machine may not say it of itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that an operator can decide about an agent.

    Attributes:
        server_urls: where replicas of one deployment are, as people know them; any of them may be used.
        join_token: needed until the agent has joined.
        name: shown beside the agent's id.
        cpus: None: what the machine has. The same for `memory_bytes` and `gpus`.
        gpus: model names, one for each accelerator.
        on_exit: what becomes of running tasks when the agent is told to end: `keep` or `stop`.
        preemption_notice: who says that this machine is taken back; None: nobody.
    """

    server_urls: tuple[str, ...]
    data_dir: Path
    name: str
    join_token: str = ""
    cpus: float | None = None
    memory_bytes: int | None = None
    gpus: tuple[str, ...] | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    on_exit: str = "keep"
    die_with_parent: bool = False
    preemption_notice: NoticeSetting | None = None
    log_format: str = "auto"
    log_level: str = "info"


def load(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Reads flags, variables and the file that they name.

    Raises:
        BadSettings: something is unknown, of the wrong form or missing.
    """
    flags = {name: value for name, value in vars(_parser().parse_args(arguments)).items() if value not in (None, [])}
    named = {name: environment[variable] for name, variable in _VARIABLES.items() if environment.get(variable)}
    config = flags.pop("config", None) or named.pop("config", None)
    told = {**(_read_file(Path(config)) if config else {}), **named, **flags}
    values = {name: _READERS[name](name, value) for name, value in told.items()}
    token_file = values.pop("join_token_file", None)
    if token_file is not None and "join_token" not in flags:
        values["join_token"] = _read_token(token_file)
    if "server_url" not in values:
        raise BadSettings("no server is named; say --server-url http://HOST:PORT or set STYX_SERVER_URL")
    values["server_urls"] = values.pop("server_url")
    values.setdefault("data_dir", _default_data_dir(environment))
    values.setdefault("name", socket.gethostname()[:_MAX_NAME])
    return Settings(**values)


def parse_size(name: str, value: object) -> int:
    """Bytes of `512MiB`, `2GiB`, `1.5G` or a bare number.

    Raises:
        BadSettings: it is something else.
    """
    match = _SIZE.fullmatch(str(value).strip())
    if match is None:
        raise BadSettings(f"{name} is a size such as 512MiB or 2GiB, not {value!r}")
    unit = (match[2] or "").upper().replace("I", "i")
    return int(float(match[1]) * _UNITS[unit])


class _Parser(argparse.ArgumentParser):
    """Says what was probably meant."""

    def error(self, message: str) -> NoReturn:
        known = [option for action in self._actions for option in action.option_strings]
        for word in re.findall(r"--[\w-]+", message if "unrecognized" in message else ""):
            message = f"unknown option {word}{_did_you_mean(word, known)}"
        raise BadSettings(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="styx-agent", description="Runs tasks of a Styx server on this machine.", allow_abbrev=False)
    add = parser.add_argument
    add("--server-url", metavar="URL", help="address such as http://styx.example.com:8080; of replicas, with commas")
    add("--join-token", metavar="TOKEN", help="needed the first time; prefer --join-token-file")
    add("--join-token-file", metavar="FILE", help="file that holds the join token")
    add("--data-dir", metavar="DIR", help="default: ~/.local/share/styx-agent")
    add("--name", metavar="NAME", help="shown beside the agent's id; default: the host name")
    add("--cpus", metavar="X", help="processor cores to offer; default: all that this process may use")
    add("--memory", dest="memory_bytes", metavar="SIZE", help="memory to offer, for example 8GiB; default: all")
    add("--gpus", metavar="NAME:COUNT", action="append", help="accelerators to offer; default: what NVML finds")
    add("--label", dest="labels", metavar="KEY=VALUE", action="append", help="label that tasks can ask for; repeatable")
    add("--on-exit", choices=("keep", "stop"), help="what becomes of running tasks at SIGTERM; default: keep")
    add("--die-with-parent", action="store_true", default=None, help="end when the process that started this one does")
    add("--preemption-notice", metavar="SOURCE", help="who says that this machine ends: file:/PATH, aws, gcp, term:S")
    add("--config", metavar="FILE", help="TOML file with the same names, for example server_url")
    add("--log-format", choices=("auto", "console", "json"), help="default: console on a terminal, else json")
    add("--log-level", choices=("debug", "info", "warning", "error"), help="default: info")
    return parser


_VARIABLES = {
    "server_url": "STYX_SERVER_URL",
    "join_token": "STYX_JOIN_TOKEN",
    "join_token_file": "STYX_JOIN_TOKEN_FILE",
    "data_dir": "STYX_AGENT_DATA_DIR",
    "name": "STYX_AGENT_NAME",
    "cpus": "STYX_AGENT_CPUS",
    "memory_bytes": "STYX_AGENT_MEMORY",
    "gpus": "STYX_AGENT_GPUS",
    "labels": "STYX_AGENT_LABELS",
    "on_exit": "STYX_AGENT_ON_EXIT",
    "preemption_notice": "STYX_AGENT_PREEMPTION_NOTICE",
    "config": "STYX_AGENT_CONFIG",
    "log_format": "STYX_LOG_FORMAT",
    "log_level": "STYX_LOG_LEVEL",
}


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value or not value.isprintable():
        raise BadSettings(f"{name} is a text without control characters, not {value!r}")
    if len(value) > _MAX_NAME and name == "name":
        raise BadSettings(f"{name} has at most {_MAX_NAME} characters, this one has {len(value)}")
    return value


def _addresses(name: str, value: object) -> tuple[str, ...]:
    urls = split_addresses([_text(name, text) for text in (value if isinstance(value, list) else [value])])
    if not urls:
        raise BadSettings(f"{name} names no server: {value!r}")
    try:
        for url in urls:
            read_address(url)
    except InvalidAddress as error:
        raise BadSettings(str(error)) from None
    return urls


def _cpus(name: str, value: object) -> float:
    try:
        cpus = float(str(value))
    except ValueError:
        cpus = -1.0
    if not 0 <= cpus < 1e6:
        raise BadSettings(f"{name} is a number of cores such as 4 or 0.5, not {value!r}")
    return cpus


def _gpus(name: str, value: object) -> tuple[str, ...]:
    parts = value.split(",") if isinstance(value, str) else value
    if isinstance(parts, Mapping):
        parts = [f"{model}:{count}" for model, count in parts.items()]
    models: list[str] = []
    for part in parts if isinstance(parts, Sequence) else ():
        model, colon, count = str(part).strip().rpartition(":")
        if not colon or not model or not count.isdigit():
            raise BadSettings(f"{name} is NAME:COUNT, for example A100:2, not {part!r}")
        models += [model] * int(count)
    return tuple(models)


def _labels(name: str, value: object) -> dict[str, str]:
    if isinstance(value, Mapping):
        return {_text(name, key): str(text) for key, text in value.items()}
    parts = value.split(",") if isinstance(value, str) else value
    labels: dict[str, str] = {}
    for part in parts if isinstance(parts, Sequence) else ():
        key, equals, text = str(part).strip().partition("=")
        if not equals or not key:
            raise BadSettings(f"{name} are KEY=VALUE, for example zone=a, not {part!r}")
        labels[_text(name, key)] = text
    return labels


def _own_labels(name: str, value: object) -> dict[str, str]:
    labels = _labels(name, value)
    for key in labels:
        if key.startswith(_RESERVED):
            raise BadSettings(f"{name}: {key!r} starts with {_RESERVED}, which only the server sets; take another key")
    return labels


def _one_of(*words: str) -> Callable[[str, object], str]:
    def read(name: str, value: object) -> str:
        if value not in words:
            raise BadSettings(f"{name} is one of {', '.join(words)}, not {value!r}")
        return str(value)

    return read


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise BadSettings(f"{name} is true or false, not {value!r}")
    return value


def _notice_setting(name: str, value: object) -> NoticeSetting:
    try:
        return read_setting(_text(name, value))
    except ValueError as error:
        raise BadSettings(f"{name} {error}, not {value!r}") from None


def _path(name: str, value: object) -> Path:
    # Absolute, because the supervisor does not share our working directory.
    return Path(_text(name, value)).expanduser().absolute()


_READERS: dict[str, Callable[[str, object], Any]] = {
    "server_url": _addresses,
    "join_token": _text,
    "join_token_file": _path,
    "data_dir": _path,
    "name": _text,
    "cpus": _cpus,
    "memory_bytes": parse_size,
    "gpus": _gpus,
    "labels": _own_labels,
    "on_exit": _one_of("keep", "stop"),
    "die_with_parent": _flag,
    "preemption_notice": _notice_setting,
    "log_format": _one_of("auto", "console", "json"),
    "log_level": _one_of("debug", "info", "warning", "error"),
}
# In a file, sizes may leave their unit to the value.
_ALIASES = {"memory": "memory_bytes"}


def _read_file(path: Path) -> dict[str, object]:
    try:
        with path.expanduser().open("rb") as file:
            content = tomllib.load(file)
    except OSError as error:
        raise BadSettings(f"{path} cannot be read: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise BadSettings(f"{path} is not TOML: {error}") from None
    names = {_ALIASES.get(key, key): value for key, value in content.items()}
    for key in names:
        if key not in _READERS:
            raise BadSettings(f"{path}: unknown key {key}{_did_you_mean(key, list(_READERS))}")
    return names


def _read_token(path: Path) -> str:
    try:
        return _text("join_token", path.read_text(encoding="utf-8").strip())
    except OSError as error:
        raise BadSettings(f"the join token file {path} cannot be read: {error.strerror}") from None


def _default_data_dir(environment: Mapping[str, str]) -> Path:
    data_home = environment.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data_home).expanduser() / "styx-agent"


def _did_you_mean(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""
