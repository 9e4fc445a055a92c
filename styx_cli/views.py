"""What people see of tasks, agents and servers: columns and lines. Pure, but for the colours that `render.py` decides.

Every text that somebody else wrote goes through `plain` here.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import TypeVar

from styx.models import (
    Agent,
    AgentState,
    Attempt,
    Capacity,
    LogSummary,
    MachineWish,
    Outcome,
    OutcomeKind,
    Resources,
    ServerInfo,
    SpotUse,
    Task,
    TaskSpec,
    TaskState,
)
from styx_cli.phrases import ago, number, rfc3339, size, span
from styx_cli.render import Column
from styx_cli.sanitize import plain
from styx_cli.tables import Cell

N = TypeVar("N", int, float)

_SPOT_WORDS = {
    SpotUse.ON_DEMAND: "not spot",
    SpotUse.SPOT: "spot",
    SpotUse.SPOT_WITH_FALLBACK: "spot if there is",
    SpotUse.ANY: "spot or not",
}

TASK_COLORS = {
    TaskState.PENDING: "yellow",
    TaskState.RUNNING: "cyan",
    TaskState.CANCELLING: "yellow",
    TaskState.SUCCEEDED: "green",
    TaskState.FAILED: "red",
    TaskState.CANCELLED: "dim",
    TaskState.TIMED_OUT: "red",
    TaskState.LOST: "red",
}

AGENT_COLORS = {
    AgentState.READY: "green",
    AgentState.DRAINING: "yellow",
    AgentState.UNREACHABLE: "red",
    AgentState.OFFLINE: "dim",
}


def task_columns(now: datetime) -> list[Column[Task]]:
    """The table of tasks."""
    return [
        Column("ID", lambda task: task.id),
        Column("NAME", lambda task: plain(task.name)),
        Column("STATE", lambda task: Cell(task.state.value, TASK_COLORS.get(task.state, ""))),
        Column("WHY", why),
        Column("AGENT", lambda task: task.agent_id or "-"),
        Column("TRIES", lambda task: str(task.attempt_count), wide=True),
        Column("PRIORITY", lambda task: str(task.priority), wide=True),
        Column("LABELS", lambda task: pairs(task.labels), wide=True),
        Column("CREATED", lambda task: ago(task.create_time, now)),
        Column("TOOK", lambda task: took(task.start_time, task.end_time, now)),
    ]


def agent_columns(now: datetime) -> list[Column[Agent]]:
    """The table of agents."""
    return [
        Column("ID", lambda agent: agent.id),
        Column("NAME", lambda agent: plain(agent.name)),
        Column("STATE", lambda agent: Cell(agent.state.value, AGENT_COLORS.get(agent.state, ""))),
        Column("POOL", lambda agent: plain(agent.pool)),
        Column("CPUS", lambda agent: _used(agent, lambda part: part.cpus, number)),
        Column("MEMORY", lambda agent: _used(agent, lambda part: part.memory_bytes, size)),
        Column("GPUS", lambda agent: _used(agent, lambda part: len(part.gpus), number)),
        Column("TASKS", lambda agent: str(agent.attempt_count)),
        Column("LABELS", lambda agent: pairs(agent.labels), wide=True),
        Column("VERSION", lambda agent: plain(agent.version), wide=True),
        Column("ISOLATION", lambda agent: plain(agent.isolation), wide=True),
        Column("LAST BEAT", lambda agent: ago(agent.last_beat_time, now)),
    ]


def why(task: Task) -> str:
    """Why the task is in its state, in a few words; empty when the state says it all."""
    if task.state is TaskState.FAILED and task.exit_code:
        return f"exit code {task.exit_code}"
    return plain(task.reason)


def took(start: datetime | None, end: datetime | None, now: datetime) -> str:
    """How long it has run; empty when it never did."""
    return span(((end or now) - start).total_seconds()) if start else ""


def pairs(labels: Mapping[str, str]) -> str:
    """Labels on one line."""
    return plain(", ".join(f"{key}={value}" for key, value in sorted(labels.items())))


def task_lines(task: Task, now: datetime) -> Iterator[str]:
    """One task in full."""
    yield from fields(
        ("Task", task.id),
        ("Name", plain(task.name)),
        ("State", task.state.value + (f"  ({plain(task.reason)})" if task.reason else "")),
        ("Why", plain(task.message)),
        ("Exit code", "" if task.exit_code is None else str(task.exit_code)),
        ("Command", _command(task.spec)),
        ("Needs", _needs(task.spec)),
        ("Labels", pairs(task.labels)),
        ("Priority", str(task.priority) if task.priority else ""),
        ("Agent", task.agent_id),
        ("Created", _when(task.create_time, now)),
        ("Waited", _waited(task, now)),
        ("Started", _when(task.start_time, now)),
        ("Ended", _when(task.end_time, now)),
        ("Took", took(task.start_time, task.end_time, now)),
    )
    if task.attempts:
        yield from ("", "Attempts")
        yield from (f"  {attempt_line(attempt, now)}" for attempt in task.attempts)
    if task.timeline:
        yield from ("", "Timeline")
        for event in task.timeline:
            at = rfc3339(event.time) if event.time else "-"
            about = " ".join(filter(None, (f"attempt {event.attempt}" if event.attempt else "", event.agent_id)))
            yield f"  {at}  {plain(event.kind)}  {about}  {plain(event.message)}".rstrip()


def attempt_line(attempt: Attempt, now: datetime) -> str:
    """One attempt on one line."""
    parts = [f"#{attempt.number}", plain(attempt.cause), attempt.agent_id, outcome_words(attempt)]
    duration = took(attempt.start_time, attempt.end_time, now)
    parts.append(f"took {duration}" if duration else "")
    parts.extend(_log_words(log, over=attempt.end_time is not None) for log in attempt.logs)
    return "  ".join(filter(None, parts))


def _log_words(log: LogSummary, *, over: bool) -> str:
    words = f"{log.stream.value.lower()} {size(log.stored_bytes)}"
    return f"{words} (incomplete)" if over and not log.sealed else words


def outcome_words(attempt: Attempt) -> str:
    """How an attempt ended, or where it is."""
    outcome = attempt.outcome
    if outcome is None:
        return attempt.state.value
    words = outcome.kind.value + _detail(outcome)
    return f"{words}: {plain(outcome.message)}" if outcome.message else words


def agent_lines(agent: Agent, now: datetime) -> Iterator[str]:
    """One agent in full."""
    yield from fields(
        ("Agent", agent.id),
        ("Name", plain(agent.name)),
        ("State", agent.state.value),
        ("Pool", plain(agent.pool)),
        ("Labels", pairs(agent.labels)),
        ("Cpus", _used(agent, lambda part: part.cpus, number)),
        ("Memory", _used(agent, lambda part: part.memory_bytes, size)),
        ("Gpus", ", ".join(plain(gpu.name) for gpu in agent.capacity.gpus) if agent.capacity else ""),
        ("Disk", size(agent.capacity.disk_bytes) if agent.capacity else ""),
        ("Tasks", f"{agent.attempt_count}  {' '.join(agent.task_ids[:20])}".rstrip()),
        ("Drained by", rfc3339(agent.drain_deadline) if agent.drain_deadline else ""),
        ("Isolation", plain(agent.isolation)),
        ("Version", plain(agent.version)),
        ("Joined", _when(agent.create_time, now)),
        ("Last beat", _when(agent.last_beat_time, now)),
        *((plain(key), plain(value)) for key, value in sorted(agent.facts.items())),
    )


def server_lines(info: ServerInfo, now: datetime) -> Iterator[str]:
    """What a server is, in a few lines."""
    up = span((now - info.start_time).total_seconds()) if info.start_time else ""
    yield from fields(
        ("Server", f"version {plain(info.version)}, up {up}, deployment {plain(info.deployment_id)}"),
        ("Agents", _counts(info.agent_counts)),
        ("Tasks", _counts(info.task_counts)),
    )


def fields(*rows: tuple[str, str]) -> Iterator[str]:
    """Titles and values, one on each line; rows without a value are left out."""
    filled = [(title, value) for title, value in rows if value]
    width = max((len(title) for title, _ in filled), default=0)
    return (f"{title:<{width}}  {value}" for title, value in filled)


def _counts(counts: Mapping[str, int]) -> str:
    present = [f"{count} {plain(name)}" for name, count in sorted(counts.items()) if count]
    return ", ".join(present) or "none"


def _detail(outcome: Outcome) -> str:
    if outcome.kind is OutcomeKind.EXITED and outcome.exit_code is not None:
        return f" with {outcome.exit_code}"
    return f" by signal {outcome.signal}" if outcome.signal else ""


def _command(spec: TaskSpec | None) -> str:
    if spec is None:
        return ""
    return plain(shlex.join(spec.argv) if spec.argv else spec.command)[:2000]


def _needs(spec: TaskSpec | None) -> str:
    if spec is None or spec.resources is None:
        return "1 cpu" if spec else ""
    needs = spec.resources
    parts = [f"{number(1 if needs.cpus is None else needs.cpus)} cpus", *_said(needs)]
    for word, listed in (("any of", needs.any_of), ("the first of", needs.ordered)):
        each = [", ".join([*_cpus(item), *_said(item)]) or "this" for item in listed]
        parts += [f"{word}: {' | '.join(each)}"] if each else []
    return ", ".join(parts)


def _cpus(needs: Resources) -> list[str]:
    return [] if needs.cpus is None else [f"{number(needs.cpus)} cpus"]


def _said(needs: Resources) -> Iterator[str]:
    """What is said but of cores."""
    if needs.memory_bytes:
        yield f"memory {size(needs.memory_bytes)}"
    if needs.gpus:
        of_each = f" of {size(needs.gpus.memory_bytes)}" if needs.gpus.memory_bytes else ""
        yield f"gpus {plain(needs.gpus.name) or 'any'}:{needs.gpus.count}{of_each}"
    if needs.disk_bytes:
        yield f"disk {size(needs.disk_bytes)}"
    if needs.labels:
        yield f"labels {pairs(needs.labels)}"
    if needs.machine:
        yield from _wishes(needs.machine)


def _wishes(machine: MachineWish) -> Iterator[str]:
    if exact := [word for word, given in (("cpus", machine.cpus_exact), ("memory", machine.memory_exact)) if given]:
        yield f"just so much {' and '.join(exact)}"
    if machine.infra:
        yield f"in {plain(' or '.join(machine.infra))}"
    if machine.machine_types:
        yield f"type {plain(' or '.join(machine.machine_types))}"
    if machine.spot is not SpotUse.UNKNOWN:
        yield _SPOT_WORDS[machine.spot]
    if machine.arch:
        yield plain(machine.arch)
    if machine.max_hourly_cost is not None:
        yield f"at most ${machine.max_hourly_cost:g} an hour"


def _waited(task: Task, now: datetime) -> str:
    if task.create_time is None:
        return ""
    until = task.start_time or task.end_time or now
    return span(max(until - task.create_time, timedelta()).total_seconds())


def _when(when: datetime | None, now: datetime) -> str:
    return f"{rfc3339(when)}  ({ago(when, now)})" if when else ""


def _used(agent: Agent, part: Callable[[Capacity], N], words: Callable[[N], str]) -> str:
    if agent.capacity is None:
        return "-"
    reserved = words(part(agent.reserved)) if agent.reserved else "0"
    return f"{reserved} of {words(part(agent.capacity))}"
