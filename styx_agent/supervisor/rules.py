"""Every decision of the supervisor about time and outcome: values in, values out.

No I/O, no clock. The lease rules are those of the session's design: until the server has recorded the start of an
attempt it lives under the short start window, after that under its disconnect timeout, both counted from the send time
of the last acked beat. Next: `attempt.py`, which does what is decided here.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field
from typing import Any, Literal

from styx_agent.supervisor.clock import SECOND

State = Literal["ACCEPTED", "PREPARING", "RUNNING", "STOPPING", "ENDED"]
Cause = Literal["CANCEL", "PREEMPT", "TIMEOUT", "LEASE", "LATE", "RETURN"]

LEFTOVER_GRACE_MICROS = 5 * SECOND
GIVE_BACK_MICROS = SECOND
"""The longest wait for room. Another machine may have some, and this one may be busy for hours."""
_LEASE_GRACE_MICROS = 15 * SECOND
_KILL_EARLY_MICROS = SECOND
_KINDS: dict[Cause, str] = {
    "CANCEL": "CANCELLED",
    "PREEMPT": "PREEMPTED",
    "TIMEOUT": "TIMED_OUT",
    "LEASE": "LOST",
    "LATE": "REJECTED",
    "RETURN": "RETURNED",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What attempts take of a machine, or what it has for them."""

    cpus_milli: int
    memory_bytes: int

    def __add__(self, other: Need) -> Need:
        return Need(cpus_milli=self.cpus_milli + other.cpus_milli, memory_bytes=self.memory_bytes + other.memory_bytes)

    def __sub__(self, other: Need) -> Need:
        return Need(cpus_milli=self.cpus_milli - other.cpus_milli, memory_bytes=self.memory_bytes - other.memory_bytes)

    def fits(self, total: Need) -> bool:
        """Whether it is no more than there is."""
        return self.cpus_milli <= total.cpus_milli and self.memory_bytes <= total.memory_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StartOrder:
    """What to run, as the link says it. All spans are in microseconds.

    Attributes:
        env: the whole environment; nothing is added to it.
        workdir: an existing directory, or empty for a fresh one.
        disconnect_micros: None for an attempt that is never stopped for silence.
        drop_when_full: whether output beyond `spool_bytes` is dropped; else the command waits.
    """

    fence: int
    task_id: int
    attempt: int
    argv: list[str]
    setup: str = ""
    env: dict[str, str] = field(default_factory=dict)
    workdir: str = ""
    cpus: float = 1.0
    memory_bytes: int = 0
    timeout_micros: int | None = None
    grace_micros: int = 30 * SECOND
    disconnect_micros: int | None = 900 * SECOND
    drop_when_full: bool = False
    spool_bytes: int = 256 << 20

    @classmethod
    def from_message(cls, message: dict[str, Any]) -> StartOrder:
        """Reads it from the wire or the journal; fields of a later version are left out."""
        return cls(**{name: message[name] for name in cls.__slots__ if name in message})

    @property
    def need(self) -> Need:
        """What it takes of the machine."""
        return Need(cpus_milli=round(self.cpus * 1000), memory_bytes=self.memory_bytes)

    def to_message(self) -> dict[str, Any]:
        """The opposite."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to run: from the send time of the last acked beat."""

    sent_micros: int
    window_micros: int

    def may_start(self, now_micros: int) -> bool:
        """Whether something new may still be started."""
        return now_micros < self.sent_micros + self.window_micros


@dataclass(frozen=True, slots=True, kw_only=True)
class StopTimes:
    """When a command is asked to end, and when it is made to."""

    term_micros: int
    kill_micros: int


def lease_stop(lease: Lease, *, recorded: bool, order: StartOrder) -> StopTimes | None:
    """When an attempt must go if no later beat is acked. Its end is a little before the server may think so.

    A quarter of the time, at most 15 s, is for its grace.
    """
    span = order.disconnect_micros if recorded else lease.window_micros
    if span is None:
        return None
    end = lease.sent_micros + span - min(_KILL_EARLY_MICROS, span // 20)
    return StopTimes(term_micros=end - min(order.grace_micros, _LEASE_GRACE_MICROS, span // 4), kill_micros=end)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an attempt ended; the words are those of the wire."""

    kind: str
    exit_code: int | None = None
    signal: int = 0
    message: str = ""
    cpu_micros: int = 0
    max_memory_bytes: int = 0

    def to_message(self) -> dict[str, Any]:
        """As it is said and kept."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What was seen of an attempt that is over.

    Attributes:
        status: wait status of the process that decided the outcome; None: none ever ran.
        cause: why it was stopped before that process ended; None: it was not.
        start_error: why the program could not be started.
        setup: whether that process was the setup.
        oom: whether the kernel killed something of it for memory.
    """

    status: int | None
    cause: Cause | None = None
    start_error: str = ""
    setup: bool = False
    oom: bool = False
    cpu_micros: int = 0
    max_memory_bytes: int = 0


def outcome_of(ending: Ending) -> Outcome:
    """The truth about an attempt, in one value."""
    code, number = _split(ending.status)
    kind, message = _kind_and_message(ending, number)
    if kind == "START_FAILED":
        code = None
    return Outcome(
        kind=kind,
        exit_code=code,
        signal=number,
        message=message,
        cpu_micros=ending.cpu_micros,
        max_memory_bytes=ending.max_memory_bytes,
    )


def _kind_and_message(ending: Ending, number: int) -> tuple[str, str]:
    if ending.cause is not None:
        return _KINDS[ending.cause], _STOP_WORDS[ending.cause]
    if ending.start_error:
        return "START_FAILED", ending.start_error
    if number and ending.oom:
        return "OOM_KILLED", "killed by the kernel: the memory limit was reached"
    if number:
        what = "setup was" if ending.setup else ""
        return "SIGNALED", f"{what} ended by {_signal_name(number)}".strip()
    return "EXITED", "setup failed" if ending.setup else ""


_STOP_WORDS: dict[Cause, str] = {
    "CANCEL": "stopped on request",
    "PREEMPT": "stopped: its machine is needed or goes away",
    "TIMEOUT": "stopped: its timeout ran out",
    "LEASE": "stopped: no server could be reached for too long",
    "LATE": "not started: the last contact with a server is too long ago",
    "RETURN": "given back: there was no room for it within a second",
}


def _split(status: int | None) -> tuple[int | None, int]:
    if status is None:
        return None, 0
    if os.WIFSIGNALED(status):
        return None, os.WTERMSIG(status)
    return os.WEXITSTATUS(status), 0


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
