"""What can go wrong, as the server's own exceptions.

    StyxError                      reason, remedy in the message, metadata
    |-- Final                      sending the same again gives the same
    |   |-- InvalidRequest         fields are wrong; carries a violation for each
    |   |-- NotFound               no such thing
    |   |-- Conflict               the request id was used for something else
    |   |-- WrongState             not in this state
    |   |-- Denied                 the token is not for this
    |   |-- Unauthenticated        no token, or a wrong one
    |   |-- Superseded             a newer session took over
    |   |-- OutOfRange             that part is gone
    `-- Retryable                  the same may work later; carries a delay
        |-- Unavailable            database away, server stopping
        `-- Exhausted              a bound was met

Raised anywhere below the doors, translated to statuses once, in `transport/errors.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


class StyxError(Exception):
    """An error with a stable reason. The message names the thing, the rule and the remedy.

    Attributes:
        reason: name of a value of `styx.v1.ErrorReason`.
        metadata: everything dynamic in the message, for programs.
    """

    reason: str = "INTERNAL_ERROR"

    def __init__(self, message: str, *, reason: str | None = None, **metadata: object) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or type(self).reason
        self.metadata: Mapping[str, str] = {key: str(value) for key, value in metadata.items()}


class Final(StyxError):
    """Sending the same again gives the same."""


class Retryable(StyxError):
    """The same may work later, after `retry_after_seconds`."""

    retry_after_seconds: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One wrong field: where it is (`specs[3].resources.cpus`), and what is wrong with what remedy."""

    field: str
    description: str


class InvalidRequest(Final):
    """Fields are wrong."""

    reason = "INVALID_ARGUMENT_FIELD"

    def __init__(self, violations: Sequence[Violation], *, reason: str | None = None) -> None:
        first = violations[0]
        more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
        super().__init__(f"{first.field}: {first.description}{more}", reason=reason, field=first.field)
        self.violations = tuple(violations)


class NotFound(Final):
    """There is no such thing."""

    reason = "TASK_NOT_FOUND"


class Conflict(Final):
    """The request id was used before, for something else."""

    reason = "REQUEST_ID_REUSED"


class WrongState(Final):
    """Not in this state."""

    reason = "TASK_NOT_ENDED"


class Unauthenticated(Final):
    """No token, or a wrong one."""

    reason = "UNAUTHENTICATED_TOKEN"


class Denied(Final):
    """The token is good, but not for this."""

    reason = "PERMISSION_MISSING"


class Superseded(Final):
    """A newer session of the same agent took over."""

    reason = "SESSION_SUPERSEDED"


class OutOfRange(Final):
    """That part is gone."""

    reason = "LOG_EXPIRED"


class Unavailable(Retryable):
    """Not now: the database is away, or the server is stopping."""

    reason = "STORE_UNAVAILABLE"


class Exhausted(Retryable):
    """A bound was met."""

    reason = "LIMIT_EXCEEDED"
