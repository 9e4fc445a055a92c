"""Exceptions to statuses, once, for every kind of rpc: code, stable reason, wrong fields, when to try again."""

from __future__ import annotations

from typing import Any, Final

import grpc
import structlog
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from styx_server.core.errors import (
    Conflict,
    Denied,
    Exhausted,
    InvalidRequest,
    NotFound,
    OutOfRange,
    Retryable,
    StyxError,
    Superseded,
    Unauthenticated,
    Unavailable,
    WrongState,
)

_log = structlog.get_logger()

DOMAIN: Final = "styx"

# Clients take 8 KiB of metadata; the message travels twice, once percent-encoded.
_MAX_MESSAGE_CHARS: Final = 600
_MAX_DETAIL_BYTES: Final = 3000

_CODES: Final[dict[type[StyxError], int]] = {
    InvalidRequest: code_pb2.INVALID_ARGUMENT,
    NotFound: code_pb2.NOT_FOUND,
    Conflict: code_pb2.ALREADY_EXISTS,
    WrongState: code_pb2.FAILED_PRECONDITION,
    Unauthenticated: code_pb2.UNAUTHENTICATED,
    Denied: code_pb2.PERMISSION_DENIED,
    Superseded: code_pb2.ABORTED,
    OutOfRange: code_pb2.OUT_OF_RANGE,
    Unavailable: code_pb2.UNAVAILABLE,
    Exhausted: code_pb2.RESOURCE_EXHAUSTED,
    StyxError: code_pb2.INTERNAL,
}


def to_status(error: StyxError) -> grpc.Status:
    """The status of an error, with its details."""
    details: list[Message] = [
        error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=dict(error.metadata))
    ]
    if isinstance(error, InvalidRequest):
        details.append(_bad_request(error))
    if isinstance(error, Retryable):
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(int(error.retry_after_seconds * 1000))
        details.append(retry)
    code = next(_CODES[kind] for kind in type(error).__mro__ if kind in _CODES)
    message = error.message[:_MAX_MESSAGE_CHARS]
    status = status_pb2.Status(code=code, message=message, details=[_packed(item) for item in details])
    result: grpc.Status = rpc_status.to_status(status)
    return result


def _bad_request(error: InvalidRequest) -> error_details_pb2.BadRequest:
    """The wrong fields, as many as fit: a status travels as metadata, and a larger one does not arrive."""
    bad = error_details_pb2.BadRequest()
    for item in error.violations:
        violation = bad.field_violations.add(
            field=item.field[:_MAX_MESSAGE_CHARS], description=item.description[:_MAX_MESSAGE_CHARS]
        )
        if bad.ByteSize() > _MAX_DETAIL_BYTES and len(bad.field_violations) > 1:
            bad.field_violations.remove(violation)
            break
    return bad


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: BaseException, method: str) -> None:
    """Ends a call with the status of `error`; what is no error of ours is a bug and is logged as one."""
    if not isinstance(error, StyxError):
        _log.error("rpc_failed", method=method, exc_info=error)
        error = StyxError("the server has a bug; its log has the details")
    await context.abort_with_status(to_status(error))


def _packed(message: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed
