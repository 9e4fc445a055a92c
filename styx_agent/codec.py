"""Between the wire and plain values. Turns words, decides nothing. Next: `session.py`."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable
from typing import Any

from google.protobuf.duration_pb2 import Duration

from styx.agent.v1 import agent_service_pb2 as wire
from styx.v1 import agents_pb2, tasks_pb2
from styx_agent.facts import Machine
from styx_agent.ledger import Held
from styx_agent.notices.notice import Notice
from styx_agent.supervisor.wire import Message

STREAMS = {"stdout": tasks_pb2.STDOUT, "stderr": tasks_pb2.STDERR}
STREAM_NAMES = {number: name for name, number in STREAMS.items()}
_CAUSES = {wire.StopAttempt.PREEMPT: "PREEMPT"}
_STATES = {"ACCEPTED": "ASSIGNED"}
_DEFAULT_GRACE_MICROS = 30_000_000
_DEFAULT_DISCONNECT_MICROS = 900_000_000
_DEFAULT_SPOOL_BYTES = 256 << 20
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def micros(duration: Duration) -> int:
    """A span in microseconds."""
    return duration.seconds * 1_000_000 + duration.nanos // 1000


def duration(value_micros: int) -> Duration:
    """A span for the wire; negative ones are said as zero."""
    seconds, rest = divmod(max(0, value_micros), 1_000_000)
    return Duration(seconds=seconds, nanos=rest * 1000)


def capacity(machine: Machine) -> agents_pb2.Capacity:
    """What the machine has."""
    return agents_pb2.Capacity(
        cpus=machine.cpus,
        memory_bytes=machine.memory_bytes,
        disk_bytes=machine.disk_bytes,
        gpus=[agents_pb2.Gpu(index=gpu.index, name=gpu.name, memory_bytes=gpu.memory_bytes) for gpu in machine.gpus],
    )


def room(machine: Machine) -> Message:
    """The same for the supervisor, as far as attempts wait for it."""
    return {"op": "capacity", "cpus_milli": round(machine.cpus * 1000), "memory_bytes": machine.memory_bytes}


class OrderWriter:
    """Turns assignments into orders for the supervisor.

    Args:
        has_gpus: whether tasks must be told which accelerators are theirs, even if none.
    """

    def __init__(self, agent_id: int, *, has_gpus: bool) -> None:
        user = pwd.getpwuid(os.getuid())
        self._has_gpus = has_gpus
        self._base_env = {
            "PATH": _PATH,
            "HOME": user.pw_dir,
            "USER": user.pw_name,
            "LOGNAME": user.pw_name,
            "SHELL": "/bin/sh",
            "LANG": "C.UTF-8",
        }
        self._own_env = {"STYX_AGENT_ID": f"a{agent_id}"}

    def order(self, assignment: wire.Assignment) -> Message:
        """What to run.

        Raises:
            google.protobuf.message.DecodeError: the spec cannot be read.
        """
        spec = tasks_pb2.TaskSpec.FromString(assignment.spec)
        limits = spec.disconnect_timeout
        return {
            "op": "start",
            "fence": assignment.fence,
            "task_id": assignment.task_id,
            "attempt": assignment.attempt,
            "argv": list(spec.argv) or ["/bin/sh", "-c", spec.command],
            "setup": spec.setup,
            "env": self._environment(assignment, spec),
            "workdir": spec.workdir,
            "cpus": spec.resources.cpus if spec.resources.HasField("cpus") else 1.0,
            "memory_bytes": spec.resources.memory_bytes,
            "timeout_micros": micros(spec.timeout) if spec.HasField("timeout") else None,
            "grace_micros": micros(spec.stop_grace) if spec.HasField("stop_grace") else _DEFAULT_GRACE_MICROS,
            "disconnect_micros": None
            if limits.never
            else micros(limits.after)
            if limits.HasField("after")
            else _DEFAULT_DISCONNECT_MICROS,
            "drop_when_full": spec.logs.when_full == tasks_pb2.LogPolicy.DROP,
            "spool_bytes": spec.logs.spool_bytes or _DEFAULT_SPOOL_BYTES,
        }

    def _environment(self, assignment: wire.Assignment, spec: tasks_pb2.TaskSpec) -> dict[str, str]:
        env = {**self._base_env, **spec.env, **self._own_env}
        env["STYX_TASK_ID"] = f"t{assignment.task_id}"
        env["STYX_ATTEMPT"] = str(assignment.attempt)
        env["STYX_FENCE"] = str(assignment.fence)
        env["STYX_NAMESPACE"] = assignment.namespace or "default"
        if self._has_gpus:
            env["CUDA_VISIBLE_DEVICES"] = ",".join(str(index) for index in assignment.gpu_indexes)
        return env


def stop_terms(stop: wire.StopAttempt) -> tuple[str, int | None]:
    """Cause and grace of a stop."""
    return _CAUSES.get(stop.cause, "CANCEL"), micros(stop.grace) if stop.HasField("grace") else None


def preemption_notice(notice: Notice | None, now_micros: int) -> wire.PreemptionNotice | None:
    """That this machine is taken back, if it is."""
    if notice is None:
        return None
    return wire.PreemptionNotice(time_left=duration(notice.left_micros(now_micros)), source=notice.source)


def held_attempt(held: Held, now_micros: int) -> wire.HeldAttempt:
    """An attempt for Hello."""
    message = wire.HeldAttempt(
        fence=held.fence,
        task_id=held.task_id,
        attempt=held.attempt,
        state=_state(held.state),
        start_acked=held.start_acked,
    )
    if held.ended and not held.end_acked:
        message.unacked_report.CopyFrom(report(held, now_micros))
    return message


def report(held: Held, now_micros: int) -> wire.AttemptReport:
    """What happened to an attempt, as of now."""
    message = wire.AttemptReport(fence=held.fence, task_id=held.task_id, state=_state(held.state))
    if held.started_micros is not None:
        message.started_ago.CopyFrom(duration(now_micros - held.started_micros))
    if held.ended:
        ended = now_micros if held.ended_micros is None else held.ended_micros
        message.ended_ago.CopyFrom(duration(now_micros - ended))
        message.outcome.CopyFrom(_outcome(held.outcome or {}))
        message.logs.extend(_log_end(log) for log in held.logs)
    return message


def gaps(values: Iterable[tuple[int, int, str]]) -> list[tasks_pb2.LogGap]:
    """Ranges that were not kept."""
    return [tasks_pb2.LogGap(start_offset=start, end_offset=end, reason=reason) for start, end, reason in values]


def _state(name: str) -> Any:
    return tasks_pb2.Attempt.State.Value(_STATES.get(name, name))


def _outcome(value: dict[str, Any]) -> tasks_pb2.Outcome:
    message = tasks_pb2.Outcome(
        kind=_outcome_kind(value.get("kind", "SUPERVISOR_LOST")),
        signal=value.get("signal", 0),
        message=value.get("message", ""),
        max_memory_bytes=value.get("max_memory_bytes", 0),
    )
    if value.get("exit_code") is not None:
        message.exit_code = value["exit_code"]
    if value.get("cpu_micros"):
        message.cpu_time.CopyFrom(duration(value["cpu_micros"]))
    return message


def _outcome_kind(name: str) -> Any:
    return tasks_pb2.Outcome.Kind.Value(name)


def _log_end(log: dict[str, Any]) -> wire.LogEnd:
    return wire.LogEnd(
        stream=STREAMS[log["stream"]],
        total_bytes=log["total"],
        sha256=bytes.fromhex(log["sha256"]),
        gaps=gaps(log["gaps"]),
    )
