"""What a server sends when it refuses, as an exception of the tree in `errors.py`.

Reads `google.rpc.Status` from the trailing metadata by hand: ErrorInfo names the reason, BadRequest the fields,
RetryInfo the wait. Without details the status code decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import grpc

from styx import errors

if TYPE_CHECKING:
    import grpc.aio

_DETAILS_KEY = "grpc-status-details-bin"
_DOMAIN = "styx"

_BY_CODE: dict[grpc.StatusCode, type[errors.StyxError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: errors.InvalidRequest,
    grpc.StatusCode.UNAUTHENTICATED: errors.Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: errors.PermissionMissing,
    grpc.StatusCode.NOT_FOUND: errors.NotFound,
    grpc.StatusCode.ALREADY_EXISTS: errors.RequestIdReused,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.LimitExceeded,
    grpc.StatusCode.UNIMPLEMENTED: errors.NotSupported,
    grpc.StatusCode.INTERNAL: errors.InternalError,
    grpc.StatusCode.UNKNOWN: errors.InternalError,
    grpc.StatusCode.DATA_LOSS: errors.InternalError,
}

_UNREACHABLE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)


class Details(NamedTuple):
    """What the details of a status say."""

    reason: str = ""
    violations: tuple[errors.FieldViolation, ...] = ()
    retry_after_seconds: float | None = None


def from_rpc_error(error: grpc.aio.AioRpcError, url: str) -> errors.StyxError:
    """Makes the exception for a call that failed; `url` is for the message when nobody answered."""
    details = read_details(_details_bytes(error.trailing_metadata()))
    kind = errors.BY_REASON.get(details.reason) or _BY_CODE.get(error.code())
    text = error.details() or error.code().name.lower()
    if kind is None and error.code() in _UNREACHABLE:
        return errors.ServerUnreachable(url, _why(error.code(), text))
    if kind is None:
        return errors.Final(text, reason=details.reason or error.code().name)
    made = kind(text, reason=details.reason, retry_after_seconds=details.retry_after_seconds)
    if isinstance(made, errors.InvalidRequest):
        made.violations = details.violations
    return made


def read_details(status_bytes: bytes) -> Details:
    """Reads a serialized google.rpc.Status; what cannot be read counts as not said."""
    if not status_bytes:
        return Details()
    from google.protobuf.message import DecodeError
    from google.rpc import error_details_pb2, status_pb2

    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    found: set[str] = set()
    try:
        for detail in status_pb2.Status.FromString(status_bytes).details:
            found.update(part.DESCRIPTOR.full_name for part in (info, bad, retry) if detail.Unpack(part))
    except DecodeError:
        return Details()
    return Details(
        reason=info.reason if info.domain == _DOMAIN else "",
        violations=tuple(
            errors.FieldViolation(field=item.field, description=item.description) for item in bad.field_violations
        ),
        retry_after_seconds=(
            retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9 if "google.rpc.RetryInfo" in found else None
        ),
    )


def reason_of(metadata: Any) -> str:
    """The stable reason in the trailing metadata of a call that ended; empty when there is none."""
    return read_details(_details_bytes(metadata)).reason


def _details_bytes(metadata: Any) -> bytes:
    for key, value in metadata or ():
        if key == _DETAILS_KEY:
            return value if isinstance(value, bytes) else str(value).encode("latin-1")
    return b""


def _why(code: grpc.StatusCode, text: str) -> str:
    return "it does not answer in time" if code is grpc.StatusCode.DEADLINE_EXCEEDED else text
