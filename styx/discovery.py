"""Where a server's gRPC port is, given the one address that people know: its HTTP address.

Standard library only, because the command line pays for every import. Next: `channel.py` dials what this finds.
"""

from __future__ import annotations

import http.client
import json
import ssl
from dataclasses import dataclass

from styx.errors import ServerUnreachable
from styx.locate import read_address

DISCOVERY_PATH = "/.well-known/styx.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """What to dial.

    Attributes:
        grpc_address: `host:port`, as `grpc.aio.insecure_channel` takes it.
        tls: whether the port speaks TLS.
        deployment_id: whose server it is; empty when nobody was asked.
    """

    grpc_address: str
    tls: bool
    deployment_id: str = ""


def discover(server_url: str, *, timeout_seconds: float = 5.0) -> Endpoint:
    """Finds the gRPC port behind `server_url`.

    `http://host:port` and `https://host:port` are asked for their discovery document; `grpc://host:port` and
    `grpcs://host:port` are taken at their word.

    Raises:
        InvalidAddress: the URL is of another form.
        ServerUnreachable: nobody answers there, or not a Styx server.
    """
    scheme, host, port = read_address(server_url)
    if scheme in ("grpc", "grpcs") and port is not None:
        return Endpoint(grpc_address=_join(host, port), tls=scheme == "grpcs")
    return _ask(server_url, scheme == "https", host, port, timeout_seconds)


def _ask(url: str, secure: bool, host: str, port: int | None, timeout_seconds: float) -> Endpoint:
    connection = (
        http.client.HTTPSConnection(host, port, timeout=timeout_seconds, context=ssl.create_default_context())
        if secure
        else http.client.HTTPConnection(host, port, timeout=timeout_seconds)
    )
    try:
        connection.request("GET", DISCOVERY_PATH, headers={"accept": "application/json"})
        response = connection.getresponse()
        if response.status != http.client.OK:
            raise ServerUnreachable(url, f"it answered {response.status} to {DISCOVERY_PATH}; is this a Styx server?")
        document = json.loads(response.read(65536))
        address = document["grpc_address"] or _join(host, int(document["grpc_port"]))
        return Endpoint(
            grpc_address=str(address),
            tls=bool(document["tls"]),
            deployment_id=str(document.get("deployment_id", "")),
        )
    except (OSError, http.client.HTTPException) as error:
        raise ServerUnreachable(url, str(error) or type(error).__name__) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ServerUnreachable(url, "its discovery document cannot be read; is this a Styx server?") from error
    finally:
        connection.close()


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
