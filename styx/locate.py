"""Which server to talk to, and with which token: from arguments, the environment, then this machine's data folder.

Standard library only, no network: `channel.py` dials what this finds. The data folder is where a server on this machine
writes `endpoint.json` (its addresses) and `admin.token`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from styx.errors import InvalidAddress, NoServer, TokenUnreadable

ENDPOINT_FILE = "endpoint.json"
TOKEN_FILE = "admin.token"  # noqa: S105 - the name of a file


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """One server to try.

    Attributes:
        url: as a person would write it; for messages, and for discovery.
        grpc_address: `host:port`, when it is known without asking.
        tls: whether it speaks TLS there.
    """

    url: str
    grpc_address: str | None = None
    tls: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Servers that are equal, and the token for them; no token is sent when it is empty."""

    addresses: tuple[Address, ...]
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalEndpoint:
    """What a server on this machine wrote about itself.

    Attributes:
        http_addresses: of all replicas that run there, this one's too.
    """

    http: str
    grpc: str
    pid: int
    version: str
    tls: bool
    http_addresses: tuple[str, ...] = ()


def default_data_dir(env: Mapping[str, str] = os.environ) -> Path:
    """The folder of a server on this machine: STYX_DATA_DIR, else `styx` in the user's data folder."""
    if env.get("STYX_DATA_DIR"):
        return Path(env["STYX_DATA_DIR"])
    base = env.get("XDG_DATA_HOME") or str(Path(env.get("HOME") or Path.home()) / ".local" / "share")
    return Path(base) / "styx"


def locate(
    url: str | Sequence[str] | None = None,
    token: str | None = None,
    *,
    data_dir: Path | str | None = None,
    env: Mapping[str, str] = os.environ,
) -> Target:
    """Finds the server and the token.

    Args:
        url: one or more addresses, separated by commas or as a sequence; else STYX_SERVER_URL, else the servers of the
            local data folder.
        token: else STYX_TOKEN, else, when every address is on this machine, the data folder's admin token.
        data_dir: names the data folder; what is found there then goes before the environment.
        env: where the variables are read.

    Raises:
        NoServer: nothing names one, and none has written its address here.
        TokenUnreadable: the token file is there but cannot be read.
    """
    folder = Path(data_dir) if data_dir else default_data_dir(env)
    named = split_addresses(url if url is not None else ("" if data_dir else env.get("STYX_SERVER_URL", "")))
    if not named:
        return Target(addresses=_local(folder), token=_token(token, env, folder, folder_first=bool(data_dir)))
    addresses = _named(named, folder)
    if data_dir or all(_is_loopback(address.url) for address in addresses):
        return Target(addresses=addresses, token=_token(token, env, folder, folder_first=bool(data_dir)))
    return Target(addresses=addresses, token=(env.get("STYX_TOKEN", "") if token is None else token).strip())


def split_addresses(text: str | Sequence[str]) -> tuple[str, ...]:
    """The addresses in a text with commas, or in several texts; each once."""
    parts = text.split(",") if isinstance(text, str) else (part for each in text for part in each.split(","))
    return tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))


def read_address(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port of a server address; a port is always there when the scheme is grpc or grpcs.

    Raises:
        InvalidAddress: it is of another form.
    """
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidAddress(url, str(error)) from None
    if not host:
        raise InvalidAddress(url, "it has no host")
    if parts.scheme not in ("http", "https", "grpc", "grpcs"):
        raise InvalidAddress(url, f"{parts.scheme}:// is not one of http, https, grpc, grpcs")
    if parts.scheme.startswith("grpc") and port is None:
        raise InvalidAddress(url, "a grpc:// address needs a port")
    return parts.scheme, host, port


def _token(given: str | None, env: Mapping[str, str], folder: Path, *, folder_first: bool) -> str:
    if given is not None:
        return given.strip()
    from_env = env.get("STYX_TOKEN", "").strip()
    return (read_token(folder) or from_env) if folder_first else (from_env or read_token(folder))


def read_endpoint(folder: Path) -> LocalEndpoint | None:
    """What the server of this data folder wrote about itself; None when it runs no server, or stopped in order.

    A server that names others leaves the file when it stops: those go on.
    """
    try:
        document = json.loads((folder / ENDPOINT_FILE).read_text())
        http = str(document["http"])
        return LocalEndpoint(
            http=http,
            grpc=str(document["grpc"]),
            pid=int(document["pid"]),
            version=str(document.get("version", "")),
            tls=bool(document.get("tls")),
            http_addresses=split_addresses([http, *map(str, document.get("http_addresses", ()))]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_token(folder: Path) -> str:
    """The admin token of this data folder; empty when there is none.

    Raises:
        TokenUnreadable: it is there but this user may not read it.
    """
    path = folder / TOKEN_FILE
    try:
        return path.read_text().strip()
    except PermissionError:
        raise TokenUnreadable(f"{path} cannot be read by this user") from None
    except OSError:
        return ""


def _named(urls: Sequence[str], folder: Path) -> tuple[Address, ...]:
    endpoint = read_endpoint(folder)
    return tuple(_address(url, endpoint) for url in urls)


def _address(url: str, endpoint: LocalEndpoint | None) -> Address:
    """A named address; when it is that of this machine's server, discovery has been done already."""
    if endpoint is None or _place(url) != _place(endpoint.http):
        return Address(url=url)
    return Address(url=url, grpc_address=endpoint.grpc, tls=endpoint.tls)


def _local(folder: Path) -> tuple[Address, ...]:
    endpoint = read_endpoint(folder)
    if endpoint is None:
        raise NoServer(f"no server is named, and none runs with the data folder {folder}")
    return tuple(_address(url, endpoint) for url in endpoint.http_addresses)


def _place(url: str) -> tuple[str, str, int | None] | None:
    """Scheme, host and port, with the names of this machine made equal; None when it cannot be read."""
    try:
        scheme, host, port = read_address(url)
    except InvalidAddress:
        return None
    return scheme, "127.0.0.1" if host == "localhost" else host, port


def _is_loopback(url: str) -> bool:
    from ipaddress import ip_address

    place = _place(url)
    try:
        return place is not None and ip_address(place[1]).is_loopback
    except ValueError:
        return False
