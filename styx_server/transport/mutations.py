"""What every mutation carries: whose request it is, so that it can be repeated."""

from __future__ import annotations

from typing import Any

from styx_server.core.limits import check_request_id
from styx_server.transport import codec
from styx_server.transport.auth import caller_of_call


def mutation_fields(request: Any, method: str) -> dict[str, Any]:
    """The fields of a `Mutation` for a request with a `request_id`."""
    check_request_id(request.request_id)
    digest = codec.request_digest(request) if request.request_id else b""
    return {
        "token_id": caller_of_call.get().number,
        "method": method,
        "request_id": request.request_id,
        "digest": digest,
    }
