"""What callers of the SDK give and get: frozen, typed values with the words of the wire contract.

Field names are those of the messages in `protos/styx/v1`, whose comments are the reference for what each one means;
times are `datetime` in UTC, spans are `timedelta`, "unset" is None. No protobuf here: `wire.py` translates, `spec.py`
builds a `TaskSpec` from what people write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal

# What callers say of machines is found here, too.
from styx.needs import GpuRequest as GpuRequest
from styx.needs import Labels as Labels
from styx.needs import MachineWish as MachineWish
from styx.needs import Resources as Resources
from styx.needs import SpotUse as SpotUse


class TaskState(StrEnum):
    """Where a task is in its life."""

    UNKNOWN = "UNKNOWN"
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    CANCELLING = "CANCELLING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMED_OUT = "TIMED_OUT"
    LOST = "LOST"

    @property
    def is_terminal(self) -> bool:
        """Whether a task in this state never changes again; a state that this version does not know is not."""
        return self in _TERMINAL


_TERMINAL = frozenset({TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED, TaskState.TIMED_OUT, TaskState.LOST})


class AttemptState(StrEnum):
    """Where an attempt is in its life."""

    UNKNOWN = "UNKNOWN"
    ASSIGNED = "ASSIGNED"
    PREPARING = "PREPARING"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    ENDED = "ENDED"


class OutcomeKind(StrEnum):
    """How an attempt ended."""

    UNKNOWN = "UNKNOWN"
    EXITED = "EXITED"
    SIGNALED = "SIGNALED"
    OOM_KILLED = "OOM_KILLED"
    TIMED_OUT = "TIMED_OUT"
    CANCELLED = "CANCELLED"
    PREEMPTED = "PREEMPTED"
    REJECTED = "REJECTED"
    START_FAILED = "START_FAILED"
    HOST_REBOOTED = "HOST_REBOOTED"
    SUPERVISOR_LOST = "SUPERVISOR_LOST"
    LOST = "LOST"
    RETURNED = "RETURNED"


class AgentState(StrEnum):
    """Where an agent is in its life."""

    UNKNOWN = "UNKNOWN"
    READY = "READY"
    DRAINING = "DRAINING"
    UNREACHABLE = "UNREACHABLE"
    OFFLINE = "OFFLINE"


class LogStream(StrEnum):
    """The streams of output; UNKNOWN asks for both."""

    UNKNOWN = "UNKNOWN"
    STDOUT = "STDOUT"
    STDERR = "STDERR"


class WhenFull(StrEnum):
    """What a full spool on the agent does to the task."""

    UNKNOWN = "UNKNOWN"
    BLOCK = "BLOCK"
    DROP = "DROP"


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """What to do when the command itself fails."""

    max_retries: int = 0
    backoff: timedelta | None = None
    max_backoff: timedelta | None = None
    on_exit_codes: Sequence[int] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPolicy:
    """What happens to output that the server does not have yet."""

    when_full: WhenFull = WhenFull.UNKNOWN
    spool_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskSpec:
    """What to run, what it needs, and how it is to be treated. Exactly one of `command` and `argv` is given."""

    name: str = ""
    command: str = ""
    argv: Sequence[str] = ()
    setup: str = ""
    env: Labels = field(default_factory=dict)
    workdir: str = ""
    resources: Resources | None = None
    pool: str = ""
    image: str = ""
    priority: int = 0
    timeout: timedelta | None = None
    stop_grace: timedelta | None = None
    disconnect_timeout: timedelta | Literal["never"] | None = None
    at_most_once: bool = False
    retry: RetryPolicy | None = None
    labels: Labels = field(default_factory=dict)
    logs: LogPolicy | None = None
    depends_on: Sequence[str] = ()
    secrets: Sequence[str] = ()
    not_before: datetime | None = None
    deadline: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogGap:
    """A range of output that was not kept: from `start_offset` up to, not including, `end_offset`."""

    start_offset: int
    end_offset: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSummary:
    """What is known of one stream of output of one attempt."""

    stream: LogStream
    stored_bytes: int
    total_bytes: int | None
    sealed: bool
    sha256: bytes
    gaps: Sequence[LogGap]
    corrupt: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an attempt ended."""

    kind: OutcomeKind
    exit_code: int | None
    signal: int
    message: str
    cpu_time: timedelta | None
    max_memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try at a task on one agent."""

    number: int
    fence: int
    state: AttemptState
    agent_id: str
    cause: str
    assign_time: datetime | None
    start_time: datetime | None
    end_time: datetime | None
    outcome: Outcome | None
    logs: Sequence[LogSummary]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskEvent:
    """One thing that happened to a task."""

    time: datetime | None
    kind: str
    state: TaskState
    attempt: int
    agent_id: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task and what is known about its life. Lists and watches leave out spec, attempts and timeline."""

    id: str
    namespace: str
    name: str
    labels: Labels
    spec: TaskSpec | None
    state: TaskState
    reason: str
    message: str
    exit_code: int | None
    attempts: Sequence[Attempt]
    create_time: datetime | None
    start_time: datetime | None
    end_time: datetime | None
    agent_id: str
    job_id: str
    priority: int
    attempt_count: int
    timeline: Sequence[TaskEvent]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskStatus:
    """The state of one task and little else."""

    task_id: str
    state: TaskState
    reason: str
    message: str
    exit_code: int | None
    attempt_count: int
    agent_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskPage:
    """A page of tasks, newest first; an empty token means that there are no more."""

    tasks: Sequence[Task]
    next_page_token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchUpdate:
    """Tasks as they are after a change, and where to go on after it."""

    tasks: Sequence[Task]
    cursor: str
    synced: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LogTime:
    """When a position of the output was written; it holds until the next one."""

    offset: int
    time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LogChunk:
    """A piece of output.

    Attributes:
        data: the bytes as the command wrote them.
        offset: position of the first of them in its stream.
        times: when pieces of it were written; only when asked for.
        gaps: ranges that are missing just before it.
        end_of_stream: nothing more comes from this stream of this attempt.
        incomplete: more may have been written, but its agent cannot be reached; ask again later.
    """

    attempt: int
    stream: LogStream
    offset: int
    data: bytes
    times: Sequence[LogTime] = ()
    gaps: Sequence[LogGap] = ()
    end_of_stream: bool = False
    incomplete: bool = False

    @property
    def text(self) -> str:
        """The bytes as UTF-8; what is not UTF-8, or is cut at the border of the chunk, becomes U+FFFD."""
        return self.data.decode("utf-8", "replace")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One accelerator of a machine."""

    index: int
    name: str
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What a machine has, or a part of it."""

    cpus: float
    memory_bytes: int
    gpus: Sequence[Gpu]
    disk_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """The program that runs tasks on a machine.

    Attributes:
        drain_deadline: when it is out of service: from then on what still runs there is stopped.
        task_ids: the first 100 of the tasks that run there; empty in lists.
    """

    id: str
    name: str
    state: AgentState
    pool: str
    labels: Labels
    capacity: Capacity | None
    reserved: Capacity | None
    attempt_count: int
    version: str
    epoch: int
    create_time: datetime | None
    last_beat_time: datetime | None
    isolation: str
    facts: Labels
    drain_deadline: datetime | None = None
    task_ids: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentPage:
    """A page of agents, by id; an empty token means that there are no more."""

    agents: Sequence[Agent]
    next_page_token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinToken:
    """With this an agent may join. The token is shown only this once."""

    token: str = field(repr=False)
    expire_time: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """What a server is, and how it does."""

    version: str
    deployment_id: str
    replica_id: str
    server_time: datetime | None
    start_time: datetime | None
    task_counts: Mapping[str, int]
    agent_counts: Mapping[str, int]
    features: Sequence[str]
