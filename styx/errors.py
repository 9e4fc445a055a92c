"""Everything that can go wrong for a caller, as one tree.

    StyxError                     has .reason (stable), .message, .remedy
    |-- Retryable                 the same call may work later; nothing was lost by trying
    |   |-- ServerUnreachable     nobody answers there
    |   |-- StoreUnavailable      the server cannot reach its database now
    |   |-- ServerStopping        this server is going away
    |   |-- SessionSuperseded     a newer session of the same agent took over (agents only)
    |   `-- WaitTimedOut          the caller's own patience ran out (is a TimeoutError too)
    `-- Final                     the same call will fail again
        |-- InvalidAddress        a server address that cannot be read
        |-- NoServer              no server was named and none runs here
        |-- TokenUnreadable       the local token file belongs to somebody else
        |-- InvalidRequest        wrong in itself; .violations names the fields
        |   |-- PageTokenInvalid
        |   `-- FilterInvalid
        |-- Unauthenticated       no token, or one that is not known
        |-- PermissionMissing     the token is not for this
        |-- NotFound
        |   |-- TaskNotFound
        |   |-- AgentNotFound
        |   |-- AttemptNotFound
        |   |-- PoolNotFound
        |   |-- InstanceNotFound
        |   `-- BudgetNotFound
        |-- RequestIdReused       the request id was used for something else
        |-- TaskEnded             too late for this
        |-- TaskNotEnded          too early for this
        |-- AgentInUse            it holds attempts, or was heard of a moment ago
        |-- AgentRemoved          an operator removed this agent (agents only)
        |-- PoolExists            there is one with this name
        |-- PoolInUse             it has machines or tasks
        |-- PoolChanged           somebody else changed it first
        |-- NotSupported          meant for a later version
        |-- LimitExceeded         a bound was met
        |-- JoinTokenInvalid      unknown, used up or expired
        |-- LogExpired            that part of the log is gone
        |-- CursorExpired         changes behind a watch's cursor are gone
        |-- VersionUnsupported    the two programs are too far apart
        `-- InternalError         a bug in the server

Standard library only: the command line imports this before it knows whether it will need gRPC. `wire_errors.py` makes
these from what a server sends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldViolation:
    """One field of a request that the server refused.

    Attributes:
        field: path of the field, for example `specs[3].resources.cpus`.
        description: what is wrong with it.
    """

    field: str
    description: str


class StyxError(Exception):
    """The root. Catch this to catch everything that Styx raises on purpose.

    Attributes:
        reason: stable upper-case word; for errors of the server a name of `styx.v1.ErrorReason`.
        message: what happened, one sentence.
        remedy: what the caller can do about it; may be empty.
        retry_after_seconds: how long the server asks to wait before the next try, if it said so.
    """

    reason = "UNKNOWN"
    remedy = ""

    def __init__(
        self, message: str, *, reason: str = "", remedy: str = "", retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or type(self).reason
        self.remedy = remedy or type(self).remedy
        self.retry_after_seconds = retry_after_seconds


class Retryable(StyxError):
    """The same call may work later."""

    remedy = "try again in a moment"


class ServerUnreachable(Retryable):
    """Nobody answers at the address, or not a Styx server."""

    reason = "SERVER_UNREACHABLE"
    remedy = "check the address and that the server runs; `styx up` starts one on this machine"

    def __init__(self, url: str, why: str) -> None:
        super().__init__(f"cannot reach a Styx server at {url}: {why}")
        self.url = url
        self.why = why


class StoreUnavailable(Retryable):
    """The server cannot reach its database now."""

    reason = "STORE_UNAVAILABLE"
    remedy = "try again in a moment; if it lasts, ask the server's /health/ready why"


class ServerStopping(Retryable):
    """The server is stopping."""

    reason = "SERVER_STOPPING"
    remedy = "try again; another server, or the same one after its restart, will answer"


class SessionSuperseded(Retryable):
    """A newer session of the same agent took over."""

    reason = "SESSION_SUPERSEDED"
    remedy = "open a new session"


class WaitTimedOut(Retryable, TimeoutError):
    """What the caller waited for did not happen in the time it gave."""

    reason = "WAIT_TIMED_OUT"
    remedy = "wait longer, or look at `styx status`"


class Final(StyxError):
    """The same call will fail again."""


class InvalidAddress(Final):
    """A server address that cannot be read."""

    reason = "INVALID_ADDRESS"
    remedy = "write it like http://localhost:8080, https://styx.example.com or grpc://host:50051"

    def __init__(self, url: str, why: str) -> None:
        super().__init__(f"{url!r} is not a server address: {why}")
        self.url = url
        self.why = why


class NoServer(Final):
    """No server was named, and none runs on this machine."""

    reason = "NO_SERVER"
    remedy = "name one with STYX_SERVER_URL (or --server), or start one here with `styx up`"


class TokenUnreadable(Final):
    """The token of this machine's server is there, but this user may not read it."""

    reason = "TOKEN_UNREADABLE"
    remedy = "set STYX_TOKEN, or run as the user who runs the server"


class InvalidRequest(Final):
    """The request is wrong in itself.

    Attributes:
        violations: the fields that were refused, and why.
    """

    reason = "INVALID_ARGUMENT_FIELD"
    remedy = "correct the request; nothing was changed"
    violations: tuple[FieldViolation, ...] = ()


class PageTokenInvalid(InvalidRequest):
    """A page token that does not belong to this list."""

    reason = "PAGE_TOKEN_INVALID"
    remedy = "start the list from its beginning"


class FilterInvalid(InvalidRequest):
    """A filter that cannot be read, or names an unknown field."""

    reason = "FILTER_INVALID"
    remedy = 'terms look like state=RUNNING, name="train", label.team="x", agent=a3, id>t100, joined by AND'


class Unauthenticated(Final):
    """No token, or one that the server does not know."""

    reason = "UNAUTHENTICATED_TOKEN"
    remedy = "set STYX_TOKEN (or --token); on the server's machine the token is in admin.token in its data folder"


class PermissionMissing(Final):
    """The token is good, but not for this."""

    reason = "PERMISSION_MISSING"
    remedy = "use a token that may do this"


class NotFound(Final):
    """There is no such thing."""

    reason = "NOT_FOUND"
    remedy = "check the id"


class TaskNotFound(NotFound):
    """There is no task with this id."""

    reason = "TASK_NOT_FOUND"
    remedy = "check the id with `styx list`"


class AgentNotFound(NotFound):
    """There is no agent with this id."""

    reason = "AGENT_NOT_FOUND"
    remedy = "check the id with `styx agent list`"


class AttemptNotFound(NotFound):
    """There is no attempt with this number."""

    reason = "ATTEMPT_NOT_FOUND"
    remedy = "`styx status` of the task shows its attempts"


class PoolNotFound(NotFound):
    """There is no pool with this name."""

    reason = "POOL_NOT_FOUND"
    remedy = "see `styx pool list`, or make it with `styx pool create`"


class InstanceNotFound(NotFound):
    """There is no instance with this id."""

    reason = "INSTANCE_NOT_FOUND"
    remedy = "check the id with `styx instance list --all`"


class BudgetNotFound(NotFound):
    """There is no such budget."""

    reason = "BUDGET_NOT_FOUND"
    remedy = "see `styx budget list`"


class RequestIdReused(Final):
    """The request id was used before with a different request."""

    reason = "REQUEST_ID_REUSED"
    remedy = "take a new request id, or send exactly what was sent before"


class TaskEnded(Final):
    """The task has ended, so this can no longer be done."""

    reason = "TASK_ENDED"
    remedy = "submit a new task"


class TaskNotEnded(Final):
    """The task has not ended, so this cannot be done yet."""

    reason = "TASK_NOT_ENDED"
    remedy = "wait for it with `styx wait`, or stop it with `styx cancel`"


class AgentInUse(Final):
    """The agent holds live attempts, or was heard of a moment ago, so it cannot be removed in this way."""

    reason = "AGENT_IN_USE"
    remedy = "drain it first with `styx agent drain ID --deadline 0s --wait`"


class AgentRemoved(Final):
    """An operator removed this agent."""

    reason = "AGENT_REMOVED"
    remedy = "delete the agent's data folder and join with a new join token"


class PoolExists(Final):
    """There is a pool with this name already."""

    reason = "POOL_EXISTS"
    remedy = "change it with `styx pool update`, or take another name"


class PoolInUse(Final):
    """The pool has machines or tasks, or is the one that tasks without a pool run in."""

    reason = "POOL_IN_USE"
    remedy = "the message says what is in the way"


class PoolChanged(Final):
    """Somebody else changed the pool first."""

    reason = "POOL_CHANGED"
    remedy = "read the pool again, then decide again"


class NotSupported(Final):
    """Meant for a later version of Styx."""

    reason = "NOT_SUPPORTED"
    remedy = "leave it out; this server does not offer it yet"


class LimitExceeded(Final):
    """A bound was met; the message names it."""

    reason = "LIMIT_EXCEEDED"
    remedy = "stay below the bound that the message names"


class JoinTokenInvalid(Final):
    """A join token that is unknown, used up or expired."""

    reason = "JOIN_TOKEN_INVALID"
    remedy = "make a new one with `styx agent join`"


class LogExpired(Final):
    """That part of the log is gone from the store."""

    reason = "LOG_EXPIRED"
    remedy = "read from a later offset"


class CursorExpired(Final):
    """Changes that followed the cursor of a watch are gone from the store."""

    reason = "CURSOR_EXPIRED"
    remedy = "watch again without a cursor"


class VersionUnsupported(Final):
    """The two programs are too far apart in version."""

    reason = "VERSION_UNSUPPORTED"
    remedy = "upgrade the older one"


class InternalError(Final):
    """A bug in the server."""

    reason = "INTERNAL_ERROR"
    remedy = "report it, with the server's log of this moment"


_FROM_SERVER: tuple[type[StyxError], ...] = (
    InvalidRequest,
    Unauthenticated,
    PermissionMissing,
    TaskNotFound,
    AgentNotFound,
    AttemptNotFound,
    PoolNotFound,
    InstanceNotFound,
    BudgetNotFound,
    RequestIdReused,
    PageTokenInvalid,
    FilterInvalid,
    TaskEnded,
    TaskNotEnded,
    AgentInUse,
    AgentRemoved,
    PoolExists,
    PoolInUse,
    PoolChanged,
    NotSupported,
    StoreUnavailable,
    ServerStopping,
    LimitExceeded,
    JoinTokenInvalid,
    SessionSuperseded,
    InternalError,
    LogExpired,
    CursorExpired,
    VersionUnsupported,
)

#: The class for each reason that a server can send.
BY_REASON: Mapping[str, type[StyxError]] = {kind.reason: kind for kind in _FROM_SERVER}
