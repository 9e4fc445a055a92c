"""The HTTP port: health, metrics, the document that tells clients where gRPC is, and bundles for new machines."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from styx_server.services.health import Health

_RETRY_AFTER_SECONDS: Final = "1"
_FOR_EVER: Final = "public, max-age=31536000, immutable"


def make_app(
    health: Health,
    metrics: Callable[[], Awaitable[bytes]],
    discovery: Callable[[], dict[str, Any]],
    bundle: Callable[[str], Path | None],
) -> Starlette:
    """Builds the application.

    Args:
        health: asked by the probes.
        metrics: text for Prometheus.
        discovery: content of `/.well-known/styx.json`.
        bundle: the file with a digest, given to everybody: it is what anybody can install, and holds no secret.
    """

    async def live(_: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(_: Request) -> Response:
        reasons = await health.reasons()
        return _answer({"ready": not reasons, "reasons": reasons}, reasons)

    async def both(_: Request) -> Response:
        reasons = await health.reasons()
        return _answer({"live": True, "ready": not reasons, "reasons": reasons}, reasons)

    async def show_metrics(_: Request) -> Response:
        return Response(await metrics(), media_type=CONTENT_TYPE_LATEST)

    async def discover(_: Request) -> Response:
        return JSONResponse(discovery())

    async def fetch(request: Request) -> Response:
        path = bundle(request.path_params["digest"])
        if path is None:
            return PlainTextResponse("no bundle has this digest here; another server may have it\n", status_code=404)
        return FileResponse(path, media_type="application/octet-stream", headers={"Cache-Control": _FOR_EVER})

    async def root(_: Request) -> Response:
        text = "Styx control plane. Try /health, /metrics, /.well-known/styx.json, or the command line: styx status\n"
        return Response(text, media_type="text/plain")

    return Starlette(
        routes=[
            Route("/", root),
            Route("/health", both),
            Route("/health/live", live),
            Route("/health/ready", ready),
            Route("/metrics", show_metrics),
            Route("/.well-known/styx.json", discover),
            Route("/bundles/{digest}", fetch),
        ]
    )


def _answer(body: dict[str, Any], reasons: list[str]) -> Response:
    if not reasons:
        return JSONResponse(body)
    return JSONResponse(body, status_code=503, headers={"Retry-After": _RETRY_AFTER_SECONDS})
