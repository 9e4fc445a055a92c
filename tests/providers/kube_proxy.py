"""Stands between the provider and a real API server: what the server itself cannot be made to do is done here.

Everything is passed on, except that lists come in short pages, scripted refusals are given instead of making a pod, and
answers can be lost. Notes every pod that was made through it.
"""

from __future__ import annotations

import json
from collections import deque
from typing import Any

from aiohttp import web

from tests.providers.kube_double import Doc, Refused
from tests.providers.market import PAGE


class KubeProxy:
    """One, in front of the server that an `ApiClient` of the library is configured for.

    Attributes:
        made: namespace, name and uid of pods.
    """

    def __init__(self, client: Any) -> None:
        self.refusals: deque[Refused] = deque()
        self.losing = 0
        self.made: list[tuple[str, str, str]] = []
        self._client = client

    def app(self) -> web.Application:
        """One route."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._pass_on)
        return app

    async def ask(self, method: str, path: str, body: Doc | None = None) -> tuple[int, Doc]:
        """Asks the server itself; for the hand on the other side."""
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        data = json.dumps(body).encode() if body is not None else None
        status, raw, _ = await self._exchange(method, path, {}, data, kind)
        return status, json.loads(raw)

    async def do(self, method: str, path: str, body: Doc | None = None) -> Doc:
        """As `ask`, for what must work."""
        status, answer = await self.ask(method, path, body)
        assert 200 <= status <= 299, (method, path, answer)
        return answer

    async def _pass_on(self, request: web.Request) -> web.Response:
        makes_pod = request.method == "POST" and request.path.endswith("/pods") and "dryRun" not in request.query
        if makes_pod and self.refusals:
            refused = self.refusals.popleft()
            return web.json_response(refused.body, status=refused.status, headers=refused.headers)
        query = dict(request.query)
        if "limit" in query:
            query["limit"] = str(min(int(query["limit"]), PAGE))
        data = await request.read() or None
        status, raw, headers = await self._exchange(request.method, request.path, query, data, "application/json")
        if makes_pod and status == 201:
            metadata = json.loads(raw)["metadata"]
            self.made.append((metadata["namespace"], metadata["name"], metadata["uid"]))
            if self.losing:
                self.losing -= 1
                assert request.transport is not None
                request.transport.close()
        return web.Response(body=raw, status=status, headers=headers, content_type="application/json")

    async def _exchange(
        self, method: str, path: str, query: dict[str, str], data: bytes | None, kind: str
    ) -> tuple[int, bytes, dict[str, str]]:
        configuration = self._client.configuration
        headers = {"Content-Type": kind}
        headers |= {each["key"]: each["value"] for each in (await configuration.auth_settings()).values()}
        async with self._client.rest_client.pool_manager.request(
            method, configuration.host + path, params=query, data=data, headers=headers
        ) as answer:
            kept = {name: answer.headers[name] for name in ("Retry-After",) if name in answer.headers}
            return answer.status, await answer.read(), kept
