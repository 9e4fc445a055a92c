"""Writes docs/states.md: the states of tasks and attempts, who moves them, and what follows an end.

Made from what the programs use: the tables of `styx_server/core/states.py`, the decisions of
`styx_server/core/outcome.py` and the comments in `protos/styx/v1/tasks.proto`. tests/meta/test_states_doc.py fails when
the page is older than those. Run it with `.venv/bin/python -m tools.states_doc`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from enum import IntEnum
from pathlib import Path
from typing import TypeVar

from styx_server.core.outcome import AfterAttempt, after_attempt
from styx_server.core.states import (
    ATTEMPT_TRANSITIONS,
    TASK_TRANSITIONS,
    Actor,
    AttemptState,
    Cause,
    Desired,
    OutcomeKind,
    Reason,
    TaskState,
)
from styx_server.core.task import AgentId, Fence, Outcome, RetryPolicy, TaskFacts, TaskId

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "states.md"
PROTO = ROOT / "protos" / "styx" / "v1" / "tasks.proto"

State = TypeVar("State", bound=IntEnum)
Word = TypeVar("Word", bound=str)

ACTORS: Mapping[Actor, str] = {
    Actor.SCHEDULER: "the server, when it gives a task to an agent",
    Actor.AGENT: "the agent, by a report, a Hello, or by coming back without the attempt",
    Actor.USER: "a person or a program, through CancelTasks or RetryTask",
    Actor.REAPER: "the server, once the lease of a silent agent has run out on both sides",
}

REASONS: Mapping[Reason, str] = {
    Reason.CAPACITY: "PENDING: agents could run it, none has room now",
    Reason.NO_MATCH: "PENDING: no agent that the server knows could ever run it; the message says what they lack",
    Reason.PROVISIONING: "PENDING: a machine is being rented that can run it; the message says which and what is tried",
    Reason.BACKOFF: "PENDING: the last attempt failed or was lost, and the next one waits its time",
    Reason.NOT_BEFORE: "PENDING: its `not_before` is still to come. Reserved: no server sends it yet",
    Reason.STARTING: "PENDING: assigned to an agent, not yet known to have started",
    Reason.HELD: "PENDING: too many attempts were lost to machines; it waits for `styx retry`",
    Reason.CANCEL_REQUESTED: "CANCELLING or CANCELLED: somebody asked for it",
    Reason.EXIT_CODE: "FAILED: the command, or its setup, exited with a code other than 0",
    Reason.SIGNAL: "FAILED: a signal that Styx did not send ended the command",
    Reason.OUT_OF_MEMORY: "FAILED: the kernel killed it for memory",
    Reason.TIMEOUT: "TIMED_OUT: its `timeout` ran out",
    Reason.START_FAILED: "FAILED: no such program, no such directory, or no permission",
    Reason.ATTEMPT_LOST: "LOST: an `at_most_once` task whose attempt was lost",
}

CAUSES: Mapping[Cause, str] = {
    Cause.FIRST: "the task was submitted",
    Cause.RETRY: "the command failed, and its retry policy allows another try",
    Cause.REJECTED: "the agent did not take the attempt before this one; nothing ran",
    Cause.RETURNED: "the agent had no room for the attempt before this one, and gave it back; nothing ran",
    Cause.LOST: "the attempt before this one was lost with its machine or its supervisor",
    Cause.PREEMPTED: "the machine of the attempt before this one was needed or went away",
    Cause.MANUAL: "somebody asked with RetryTask",
}

HEAD = """\
# States

Made by `tools/states_doc.py` from the tables that the server uses; a test fails when it is stale. Do not edit.

A task is what somebody submitted; an attempt is one try at it on one agent. Both are kept in the task's row, and a
trigger of the database refuses every step that is not in the tables below. A report that comes late or twice changes
nothing: a later state wins.

What somebody wants of a task (run, or stop) is kept apart from its state, which says what was seen.
"""

AFTER_OUTCOMES = """\
`held` is a PENDING task with the reason `held`. A command that succeeds after somebody asked to stop it leaves its task
CANCELLED: the request came first.
"""

AFTER_REASONS = """\
A task that waits and has no reason of its own shows that of its shape: all tasks with the same needs wait for the same
thing. A success has no reason.
"""


def main() -> None:
    """Writes the page."""
    PAGE.write_text(page())


def page() -> str:
    """The whole page, as it should be."""
    parts = [
        HEAD,
        "## Tasks\n",
        diagram(TASK_TRANSITIONS, ends=[state for state in TaskState if state.ended]),
        meanings(TaskState, comments("State", "Task")),
        "### Who takes which step of a task\n",
        steps(TASK_TRANSITIONS),
        "PENDING may end at once because a task that starts and ends between two reports is one report.\n",
        "## Attempts\n",
        diagram(ATTEMPT_TRANSITIONS, ends=[AttemptState.ENDED]),
        meanings(AttemptState, {"NONE": "There has been no attempt yet.", **comments("State", "Attempt")}),
        "### Who takes which step of an attempt\n",
        steps(ATTEMPT_TRANSITIONS),
        "The next attempt of a task has a new number and a new, larger fence.\n",
        "## Outcomes, and what follows\n",
        outcomes(),
        AFTER_OUTCOMES,
        "## Reasons\n",
        words("reason", REASONS),
        AFTER_REASONS,
        "## Causes of attempts\n",
        words("cause", CAUSES),
        "## Who\n",
        words("who", {actor.value: text for actor, text in ACTORS.items()}),
    ]
    return "\n".join(parts)


def comments(enum: str, message: str) -> dict[str, str]:
    """What the proto says of each value of an enum inside of a message."""
    text = PROTO.read_text()
    body = text[text.index(f"\nmessage {message} {{") :]
    body = body[body.index(f"  enum {enum} {{") :]
    body = body[: body.index("\n  }")]
    found = re.findall(r"((?:^ +// .+\n)+)^ +([A-Z_]+) = \d+;", body, re.MULTILINE)
    return {name: " ".join(line.strip(" /") for line in block.splitlines()) for block, name in found}


def meanings(states: type[State], texts: Mapping[str, str]) -> str:
    """A table of states."""
    rows = [(f"{state.name}", str(int(state)), texts[state.name]) for state in states]
    return table(("state", "number", "meaning"), rows)


def steps(transitions: Mapping[tuple[State, State], frozenset[Actor]]) -> str:
    """A table of steps."""
    rows = [
        (before.name, after.name, ", ".join(sorted(actor.value for actor in actors)))
        for (before, after), actors in transitions.items()
    ]
    return table(("from", "to", "who"), rows)


def diagram(transitions: Mapping[tuple[State, State], frozenset[Actor]], ends: Iterable[State]) -> str:
    """The steps as a drawing."""
    final = list(ends)
    first = next(iter(transitions))[0].name
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {first}"]
    lines += [f"    {before.name} --> {after.name}" for before, after in transitions]
    lines += [f"    {state.name} --> [*]" for state in final]
    return "\n".join([*lines, "```\n"])


def outcomes() -> str:
    """What becomes of a task after each kind of end, asked of the code that decides it."""
    texts = comments("Kind", "Outcome")
    ends = [("EXITED with 0", Outcome(kind=OutcomeKind.EXITED, exit_code=0))]
    ends += [("EXITED with another code", Outcome(kind=OutcomeKind.EXITED, exit_code=1))]
    ends += [(kind.name, Outcome(kind=kind)) for kind in OutcomeKind if kind is not OutcomeKind.EXITED]
    rows = [
        (name, texts[outcome.kind.name], *(_shown(_after(facts, outcome)) for facts in _situations()))
        for name, outcome in ends
    ]
    titles = ("outcome", "meaning", "no retry left", "a retry left", "at_most_once", "infrastructure budget spent")
    return table((*titles, "stop was asked for"), rows)


def words(title: str, meaning: Mapping[Word, str]) -> str:
    """A table of words."""
    return table((title, "meaning"), [(f"`{word!s}`", text) for word, text in meaning.items()])


def table(titles: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = [titles, tuple("---" for _ in titles), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _situations() -> tuple[TaskFacts, ...]:
    plain = TaskFacts(
        task_id=TaskId(1),
        state=TaskState.RUNNING,
        desired=Desired.RUN,
        attempt=1,
        fence=Fence(1),
        attempt_state=AttemptState.RUNNING,
        agent_id=AgentId(1),
        at_most_once=False,
        failures=0,
        infra_failures=0,
        preemptions=0,
        retry=RetryPolicy(),
        start_time=None,
    )
    return (
        plain,
        replace(plain, retry=RetryPolicy(max_retries=1)),
        replace(plain, at_most_once=True),
        replace(plain, infra_failures=1000),
        replace(plain, desired=Desired.STOP, state=TaskState.CANCELLING),
    )


def _after(facts: TaskFacts, outcome: Outcome) -> AfterAttempt:
    return after_attempt(facts, outcome, datetime(2026, 1, 1, tzinfo=UTC), jitter=0.0)


def _shown(after: AfterAttempt) -> str:
    return "held" if after.held else after.state.name


if __name__ == "__main__":
    main()
