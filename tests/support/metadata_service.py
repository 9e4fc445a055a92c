"""The metadata services of EC2 and Compute Engine on a loopback port, as far as notices of preemption go.

Not modelled: hop limits, the other paths, and the shutdown of the machine that follows.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

_PATIENCE_SECONDS = 30.0


class MetadataService:
    """What a test changes, and what was asked."""

    def __init__(self) -> None:
        self.action: dict[str, Any] | str | None = None
        self.rebalance = False
        self.token = "token-1"
        self.asked: list[str] = []
        self.waiting = 0
        self.broken = False
        self._preempted = False
        self._changed = threading.Condition()
        self._closed = False
        self.url = ""

    def preempt(self) -> None:
        """Compute Engine takes the machine back; who waits hears of it."""
        with self._changed:
            self._preempted = True
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def answer(self, method: str, path: str, headers: Any) -> tuple[int, str, dict[str, str]]:
        self.asked.append(f"{method} {path}")
        place = urlsplit(path)
        if self.broken:
            return 503, "", {}
        if place.path.startswith("/computeMetadata/v1/"):
            return self._gcp(place.path, parse_qs(place.query), headers)
        return self._aws(method, place.path, headers)

    def _aws(self, method: str, path: str, headers: Any) -> tuple[int, str, dict[str, str]]:
        if path == "/latest/api/token":
            good = method == "PUT" and int(headers["X-aws-ec2-metadata-token-ttl-seconds"]) <= 21_600
            return (200, self.token, {}) if good else (400, "", {})
        if headers["X-aws-ec2-metadata-token"] != self.token:
            return 401, "", {}
        if path == "/latest/meta-data/spot/instance-action" and self.action is not None:
            return 200, self.action if isinstance(self.action, str) else json.dumps(self.action), {}
        if path == "/latest/meta-data/events/recommendations/rebalance" and self.rebalance:
            return 200, '{"noticeTime": "2026-01-01T08:22:00Z"}', {}
        return 404, "", {}

    def _gcp(self, path: str, query: dict[str, list[str]], headers: Any) -> tuple[int, str, dict[str, str]]:
        if headers["Metadata-Flavor"] != "Google" or path != "/computeMetadata/v1/instance/preempted":
            return 403, "", {}
        with self._changed:
            if query.get("wait_for_change") == ["true"] and query["last_etag"] == [self._etag]:
                self.waiting += 1
                seen = self._etag
                self._changed.wait_for(lambda: self._closed or self._etag != seen, _PATIENCE_SECONDS)
                self.waiting -= 1
            return 200, "TRUE" if self._preempted else "FALSE", {"ETag": self._etag}

    @property
    def _etag(self) -> str:
        return "e1" if self._preempted else "e0"


@contextmanager
def metadata_service() -> Iterator[MetadataService]:
    service = MetadataService()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, text, headers = service.answer(self.command, self.path, self.headers)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def do_PUT(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            """Tests look at `asked`."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    service.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield service
    finally:
        service.close()
        server.shutdown()
        thread.join()
        server.server_close()
