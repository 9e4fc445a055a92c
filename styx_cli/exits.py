"""How the program ends: from an error, or from the state of a task, to an exit code and a few words on stderr.

The one place where errors are explained. The table is a contract, written down in docs/cli.md: `run` and `wait` pass
the task's own code through and keep 120 to 127 for themselves; every other command ends with 0, 1 or 2.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from enum import IntEnum
from typing import TYPE_CHECKING

import click

from styx import errors
from styx_cli.settings import Settings

if TYPE_CHECKING:
    from styx.models import Task


class Exit(IntEnum):
    """Codes that mean something."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    TASK_REFUSED = 120
    TASK_TIMED_OUT = 121
    TASK_CANCELLED = 122
    TASK_LOST = 123
    WAIT_TIMED_OUT = 124
    UNAVAILABLE = 125
    NOT_ALLOWED = 126
    NOT_FOUND = 127
    INTERRUPTED = 130
    BROKEN_PIPE = 141


#: The words whose exit code is that of a task.
PASSING = ("run", "wait")

_USAGE = (errors.InvalidRequest, errors.InvalidAddress)

# The first that fits counts.
_PASSING_CODES: tuple[tuple[type[errors.StyxError], Exit], ...] = (
    (errors.WaitTimedOut, Exit.WAIT_TIMED_OUT),
    (errors.Retryable, Exit.UNAVAILABLE),
    (errors.NoServer, Exit.UNAVAILABLE),
    (errors.InternalError, Exit.UNAVAILABLE),
    (errors.Unauthenticated, Exit.NOT_ALLOWED),
    (errors.PermissionMissing, Exit.NOT_ALLOWED),
    (errors.TokenUnreadable, Exit.NOT_ALLOWED),
    (errors.NotFound, Exit.NOT_FOUND),
    (errors.Final, Exit.TASK_REFUSED),
)


def guarded(work: Callable[[], object], settings: Settings) -> int:
    """Runs a command; returns the exit code, having explained what went wrong."""
    try:
        result = work()
        sys.stdout.flush()
        return result if isinstance(result, int) else Exit.OK
    except errors.StyxError as error:
        explain(error)
        return code_for(error, settings.verb)
    except click.ClickException as error:
        _explain_usage(error)
        return _usage_code(settings.verb) if isinstance(error, click.UsageError) else Exit.FAILURE
    except (KeyboardInterrupt, click.Abort):
        return Exit.INTERRUPTED
    except BrokenPipeError:
        return after_broken_pipe()
    except OSError as error:
        complain(str(error))
        return Exit.UNAVAILABLE if settings.verb in PASSING else Exit.FAILURE
    except Exception as error:  # noqa: BLE001 - the outermost handler: a person never sees a traceback
        return _explain_bug(error, settings)


def code_for(error: errors.StyxError, verb: str) -> int:
    """The exit code of a command that failed with `error`."""
    if verb in PASSING:
        return next(code for kind, code in _PASSING_CODES if isinstance(error, kind))
    return Exit.USAGE if isinstance(error, _USAGE) else Exit.FAILURE


def code_of_task(task: Task) -> int:
    """The exit code of `run` and `wait` for a task that has ended; `task` comes with its attempts."""
    from styx.models import OutcomeKind, TaskState

    by_state = {
        TaskState.SUCCEEDED: Exit.OK,
        TaskState.TIMED_OUT: Exit.TASK_TIMED_OUT,
        TaskState.CANCELLED: Exit.TASK_CANCELLED,
    }
    if task.state in by_state:
        return by_state[task.state]
    if task.state is TaskState.FAILED and task.exit_code:
        return task.exit_code
    outcome = task.attempts[-1].outcome if task.attempts else None
    if outcome and outcome.kind is OutcomeKind.OOM_KILLED:
        return 128 + 9
    if outcome and outcome.kind is OutcomeKind.SIGNALED and outcome.signal:
        return 128 + outcome.signal
    return Exit.TASK_LOST


def after_broken_pipe() -> int:
    """Nobody reads any more: keeps the interpreter from complaining when it flushes at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return Exit.BROKEN_PIPE


def explain(error: errors.StyxError) -> None:
    """Says what went wrong, which fields, and what to do about it."""
    complain(error.message)
    for violation in getattr(error, "violations", ()):
        if violation.description not in error.message:
            _print(f"  {violation.field}: {violation.description}")
    if error.remedy:
        hint(error.remedy)


def complain(text: str) -> None:
    """One error on stderr; what others wrote in it cannot move the cursor."""
    _print(f"error: {text}")


def hint(text: str) -> None:
    """The line after an error: what to do about it."""
    _print(f"hint: {text}")


def _explain_usage(error: click.ClickException) -> None:
    complain(error.format_message())
    context = getattr(error, "ctx", None)
    if isinstance(error, click.UsageError) and context is not None:
        hint(f"`{context.command_path} --help` shows how it is used")


def _usage_code(verb: str) -> int:
    return Exit.TASK_REFUSED if verb in PASSING else Exit.USAGE


def _explain_bug(error: Exception, settings: Settings) -> int:
    if os.environ.get("STYX_DEBUG"):
        raise error
    complain(f"this is a bug in the command line: {type(error).__name__}: {error}")
    hint("report it with what STYX_DEBUG=1 shows")
    return Exit.UNAVAILABLE if settings.verb in PASSING else Exit.FAILURE


def _print(text: str) -> None:
    from styx_cli.sanitize import plain

    print(plain(text, keep_lines=True), file=sys.stderr, flush=True)  # noqa: T201 - this is where the program talks
