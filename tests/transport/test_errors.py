"""Every exception of the server becomes one status, with a reason that is in the proto."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from styx.v1 import errors_pb2
from styx_server.core import errors
from styx_server.core.errors import InvalidRequest, Retryable, StyxError, Violation
from styx_server.transport.errors import to_status

REASONS = frozenset(errors_pb2.ErrorReason.keys())
CODES = {
    "NotFound": grpc.StatusCode.NOT_FOUND,
    "Conflict": grpc.StatusCode.ALREADY_EXISTS,
    "WrongState": grpc.StatusCode.FAILED_PRECONDITION,
    "Denied": grpc.StatusCode.PERMISSION_DENIED,
    "Unauthenticated": grpc.StatusCode.UNAUTHENTICATED,
    "Superseded": grpc.StatusCode.ABORTED,
    "OutOfRange": grpc.StatusCode.OUT_OF_RANGE,
    "Unavailable": grpc.StatusCode.UNAVAILABLE,
    "Exhausted": grpc.StatusCode.RESOURCE_EXHAUSTED,
}


def _details(error: StyxError) -> tuple[grpc.StatusCode, str, dict[str, Any]]:
    status: Any = to_status(error)
    (blob,) = [value for key, value in status.trailing_metadata if key == "grpc-status-details-bin"]
    whole = status_pb2.Status.FromString(blob)
    found: dict[str, Any] = {}
    for detail in whole.details:
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo):
            message = kind()
            if detail.Unpack(message):
                found[kind.__name__] = message
    return status.code, status.details, found


@pytest.mark.parametrize("name", CODES)
def test_each_error_has_its_code_and_a_reason_of_the_proto(name: str) -> None:
    error = getattr(errors, name)("what happened; what to do", task_id="t1")
    code, text, details = _details(error)
    assert (code, text) == (CODES[name], "what happened; what to do")
    info = details["ErrorInfo"]
    assert info.domain == "styx"
    assert info.reason in REASONS
    assert dict(info.metadata) == {"task_id": "t1"}
    assert ("RetryInfo" in details) is isinstance(error, Retryable)


def test_wrong_fields_are_all_named() -> None:
    violations = [Violation(field=f"specs[{n}].command", description="is empty") for n in range(3)]
    code, text, details = _details(InvalidRequest(violations))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert "specs[0].command" in text
    named = [(item.field, item.description) for item in details["BadRequest"].field_violations]
    assert named == [(f"specs[{n}].command", "is empty") for n in range(3)]


def test_a_retry_says_when() -> None:
    _, _, details = _details(errors.Unavailable("away"))
    assert details["RetryInfo"].retry_delay.ToMilliseconds() == 1000


def test_a_bug_is_internal_and_tells_nothing() -> None:
    code, _, details = _details(StyxError("a bug"))
    assert code is grpc.StatusCode.INTERNAL
    assert details["ErrorInfo"].reason == "INTERNAL_ERROR"
