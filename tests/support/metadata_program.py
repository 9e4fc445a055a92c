"""The metadata service of one machine, as EC2 (version 2, with its token) or Google Cloud would answer it.

Run where 169.254.169.254 is an address: `python metadata_program.py ec2|gce FILE`, with the user-data in the file. Not
modelled: dynamic data but the identity document, waiting for a change, network interfaces, credentials.
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

PLACE = ("169.254.169.254", 80)
_TOKEN = "a-session-token"
_EC2 = {
    "ami-id": "ami-1",
    "hostname": "ip-10-0-0-5.ec2.internal",
    "instance-id": "i-0123456789abcdef0",
    "instance-type": "m5.large",
    "local-hostname": "ip-10-0-0-5.ec2.internal",
    "local-ipv4": "10.0.0.5",
    "placement/availability-zone": "us-east-1a",
    "placement/region": "us-east-1",
}
_IDENTITY = {"instanceId": _EC2["instance-id"], "region": "us-east-1", "availabilityZone": "us-east-1a"}
_DYNAMIC = {
    "dynamic/instance-identity": "document",
    "dynamic/instance-identity/": "document",
    "dynamic/instance-identity/document": json.dumps(_IDENTITY),
}
_GCE = {
    "instance/id": "4242",
    "instance/name": "styx-1",
    "instance/hostname": "styx-1.c.p.internal",
    "instance/zone": "projects/1/zones/us-central1-a",
    "project/projectId": "p",
    "project/numericProjectId": "1",
}


class _Service(BaseHTTPRequestHandler):
    user_data = b""


class _Ec2(_Service):
    def do_PUT(self) -> None:
        if self.path == "/latest/api/token" and self.headers.get("X-aws-ec2-metadata-token-ttl-seconds"):
            _answer(self, 200, _TOKEN.encode())
        else:
            _answer(self, 400)

    def do_GET(self) -> None:
        if self.headers.get("X-aws-ec2-metadata-token") != _TOKEN:
            return _answer(self, 401)
        _, _, rest = self.path.strip("/").partition("/")  # the version of the format
        if rest.startswith("user-data"):
            return _answer(self, 200, self.user_data)
        if rest in _DYNAMIC:
            return _answer(self, 200, _DYNAMIC[rest].encode())
        root, _, name = rest.partition("/")
        found = _branch(name.strip("/")) if root == "meta-data" else None
        return _answer(self, 404) if found is None else _answer(self, 200, found.encode())


class _Gce(_Service):
    def do_GET(self) -> None:
        if self.headers.get("Metadata-Flavor") != "Google":
            return _answer(self, 403)
        parts = urlsplit(self.path)
        name = parts.path.removeprefix("/computeMetadata/v1/")
        tree = {**_GCE, "instance/attributes/user-data": self.user_data.decode()}
        if "recursive" in parse_qs(parts.query):
            return _answer(self, 200, json.dumps(_nested(tree, name)).encode())
        alias = {"project/project-id": "project/projectId"}.get(name, name)
        return _answer(self, 200, tree[alias].encode()) if alias in tree else _answer(self, 404)


def _branch(name: str) -> str | None:
    """A value, or the names below; None: neither."""
    if name in _EC2:
        return _EC2[name]
    below = [key.removeprefix(name).lstrip("/") for key in _EC2 if key.startswith(f"{name}/" if name else "")]
    names = {f"{first}/" if rest else first for first, _, rest in (key.partition("/") for key in below)}
    return "\n".join(sorted(names)) or None


def _nested(tree: dict[str, str], prefix: str) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in tree.items():
        if key.startswith(prefix):
            *folders, last = key.removeprefix(prefix).split("/")
            place: dict[str, object] = found
            for folder in folders:
                inner = place.setdefault(folder, {})
                assert isinstance(inner, dict)
                place = inner
            place[last] = value
    return found


def _answer(request: BaseHTTPRequestHandler, code: int, body: bytes = b"") -> None:
    request.send_response(code)
    request.send_header("Content-Length", str(len(body)))
    request.send_header("Metadata-Flavor", "Google")
    request.end_headers()
    request.wfile.write(body)


def main() -> None:
    """The program."""
    handler: type[_Service] = _Ec2 if sys.argv[1] == "ec2" else _Gce
    handler.user_data = Path(sys.argv[2]).read_bytes()
    ThreadingHTTPServer(PLACE, handler).serve_forever()


if __name__ == "__main__":
    main()
