"""The life of tasks and attempts as data: states, and who may take which step.

Read by four parties: the core asserts it, the SQL guards are checked against it, the diagram in the docs is made from
it, and a test walks all pairs. May not know how a step is stored or sent.
"""

from __future__ import annotations

from enum import Enum, IntEnum, StrEnum
from typing import Final


class TaskState(IntEnum):
    """What the world sees of a task. Numbers are those of the wire and of the database."""

    PENDING = 1
    RUNNING = 2
    CANCELLING = 3
    SUCCEEDED = 4
    FAILED = 5
    CANCELLED = 6
    TIMED_OUT = 7
    LOST = 8

    @property
    def ended(self) -> bool:
        """Whether this is one of the terminal states."""
        return self >= TaskState.SUCCEEDED


class AttemptState(IntEnum):
    """Where the latest attempt of a task is. `NONE`: there has been none."""

    NONE = 0
    ASSIGNED = 1
    PREPARING = 2
    RUNNING = 3
    STOPPING = 4
    ENDED = 5

    @property
    def live(self) -> bool:
        """Whether processes of the attempt may exist."""
        return AttemptState.NONE < self < AttemptState.ENDED


class OutcomeKind(IntEnum):
    """How an attempt ended."""

    EXITED = 1
    SIGNALED = 2
    OOM_KILLED = 3
    TIMED_OUT = 4
    CANCELLED = 5
    PREEMPTED = 6
    REJECTED = 7
    START_FAILED = 8
    HOST_REBOOTED = 9
    SUPERVISOR_LOST = 10
    LOST = 11
    RETURNED = 12


class Desired(IntEnum):
    """What the user wants of a task; written for the user only, while states are written for what was seen."""

    RUN = 1
    STOP = 2


class Actor(Enum):
    """Who takes a step."""

    SCHEDULER = "scheduler"
    AGENT = "agent"
    USER = "user"
    REAPER = "reaper"


class Reason(StrEnum):
    """Why a task is in its state: a stable vocabulary for programs. The message beside it is for people."""

    NONE = ""
    # PENDING
    CAPACITY = "capacity"
    NO_MATCH = "no_match"
    PROVISIONING = "provisioning"
    BACKOFF = "backoff"
    NOT_BEFORE = "not_before"
    STARTING = "starting"
    HELD = "held"
    # CANCELLING and CANCELLED
    CANCEL_REQUESTED = "cancel_requested"
    # ends
    EXIT_CODE = "exit_code"
    SIGNAL = "signal"
    OUT_OF_MEMORY = "out_of_memory"
    TIMEOUT = "timeout"
    START_FAILED = "start_failed"
    ATTEMPT_LOST = "attempt_lost"


class Cause(StrEnum):
    """Why an attempt exists."""

    FIRST = "first"
    RETRY = "retry"
    REJECTED = "rejected"
    RETURNED = "returned"
    LOST = "lost"
    PREEMPTED = "preempted"
    MANUAL = "manual"


_T = TaskState
_A = AttemptState

TASK_TRANSITIONS: Final[dict[tuple[TaskState, TaskState], frozenset[Actor]]] = {
    (_T.PENDING, _T.RUNNING): frozenset({Actor.AGENT}),
    (_T.PENDING, _T.CANCELLING): frozenset({Actor.USER}),
    (_T.PENDING, _T.SUCCEEDED): frozenset({Actor.AGENT}),
    (_T.PENDING, _T.FAILED): frozenset({Actor.AGENT}),
    (_T.PENDING, _T.CANCELLED): frozenset({Actor.USER}),
    (_T.PENDING, _T.TIMED_OUT): frozenset({Actor.AGENT}),
    (_T.PENDING, _T.LOST): frozenset({Actor.AGENT, Actor.REAPER}),
    (_T.RUNNING, _T.PENDING): frozenset({Actor.AGENT, Actor.REAPER}),
    (_T.RUNNING, _T.CANCELLING): frozenset({Actor.USER}),
    (_T.RUNNING, _T.SUCCEEDED): frozenset({Actor.AGENT}),
    (_T.RUNNING, _T.FAILED): frozenset({Actor.AGENT}),
    (_T.RUNNING, _T.TIMED_OUT): frozenset({Actor.AGENT}),
    (_T.RUNNING, _T.LOST): frozenset({Actor.AGENT, Actor.REAPER}),
    (_T.CANCELLING, _T.CANCELLED): frozenset({Actor.AGENT, Actor.REAPER}),
    # RetryTask opens an ended task again, on a person's word only; a success is never run again.
    (_T.FAILED, _T.PENDING): frozenset({Actor.USER}),
    (_T.CANCELLED, _T.PENDING): frozenset({Actor.USER}),
    (_T.TIMED_OUT, _T.PENDING): frozenset({Actor.USER}),
    (_T.LOST, _T.PENDING): frozenset({Actor.USER}),
}
"""Steps of a task that change its state, and who takes them."""

ATTEMPT_TRANSITIONS: Final[dict[tuple[AttemptState, AttemptState], frozenset[Actor]]] = {
    (_A.NONE, _A.ASSIGNED): frozenset({Actor.SCHEDULER}),
    (_A.ENDED, _A.ASSIGNED): frozenset({Actor.SCHEDULER}),
    (_A.ASSIGNED, _A.PREPARING): frozenset({Actor.AGENT}),
    (_A.ASSIGNED, _A.RUNNING): frozenset({Actor.AGENT}),
    (_A.ASSIGNED, _A.STOPPING): frozenset({Actor.AGENT}),
    (_A.ASSIGNED, _A.ENDED): frozenset({Actor.AGENT, Actor.REAPER}),
    (_A.PREPARING, _A.RUNNING): frozenset({Actor.AGENT}),
    (_A.PREPARING, _A.STOPPING): frozenset({Actor.AGENT}),
    (_A.PREPARING, _A.ENDED): frozenset({Actor.AGENT, Actor.REAPER}),
    (_A.RUNNING, _A.STOPPING): frozenset({Actor.AGENT}),
    (_A.RUNNING, _A.ENDED): frozenset({Actor.AGENT, Actor.REAPER}),
    (_A.STOPPING, _A.ENDED): frozenset({Actor.AGENT, Actor.REAPER}),
}
"""Steps of the latest attempt. ENDED to ASSIGNED is the next attempt, under a new fence."""

LIVE_ATTEMPT_STATES: Final = tuple(state for state in AttemptState if state.live)


def may(actor: Actor, before: TaskState, after: TaskState) -> bool:
    """Whether `actor` may move a task from `before` to `after`; staying is always allowed."""
    return before == after or actor in TASK_TRANSITIONS.get((before, after), frozenset())


def may_attempt(actor: Actor, before: AttemptState, after: AttemptState) -> bool:
    """Whether `actor` may move an attempt from `before` to `after`; staying is always allowed."""
    return before == after or actor in ATTEMPT_TRANSITIONS.get((before, after), frozenset())
