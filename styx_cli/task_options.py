"""The options of `run` and `submit`, and the task that they describe."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TypeVar

import click

from styx_cli.words import Alternative, Cpus, Duration, Gpus, Memory, Pair, Size, mapping

if TYPE_CHECKING:
    from styx.models import TaskSpec

F = TypeVar("F", bound=Callable[..., Any])

_PAIRS = ("env", "labels", "require_labels")

_OPTIONS: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (("-c", "line"), {"metavar": "LINE", "help": "A shell line, instead of CMD."}),
    (("--name",), {"help": "A name, for people. Default: made from the command."}),
    (
        ("--env", "-e"),
        {
            "multiple": True,
            "type": Pair(from_environment=True),
            "metavar": "K=V",
            "help": "A variable; K alone copies it.",
        },
    ),
    (("--workdir",), {"metavar": "DIR", "help": "Directory on the machine. Default: a fresh one."}),
    (("--setup",), {"metavar": "LINE", "help": "A shell line to run first, in the same place."}),
    (("--cpus",), {"type": Cpus(), "metavar": "N", "help": "Processor cores, at least; =N: just N. Default: 1."}),
    (("--memory",), {"type": Memory(), "metavar": "SIZE", "help": "Main memory, like 512MiB or 2GiB; =SIZE: just so."}),
    (("--gpus",), {"type": Gpus(), "metavar": "NAME:N", "help": "Accelerators: A100:2, A100, or 2 of any."}),
    (("--gpu-memory",), {"type": Size(), "metavar": "SIZE", "help": "Memory of each of them, at least, like 40GB."}),
    (("--disk",), {"type": Size(), "metavar": "SIZE", "help": "Disk below the working directory."}),
    (("--infra",), {"multiple": True, "metavar": "PLACE", "help": "Where: aws, gcp/us-central1, or several."}),
    (("--provider",), {"metavar": "NAME", "help": "The same in parts: aws, gcp, kubernetes, local, static."}),
    (("--region",), {"metavar": "NAME", "help": "The region, like us-east-1."}),
    (("--zone",), {"metavar": "NAME", "help": "The zone, like us-east-1a."}),
    (
        ("--machine-type",),
        {"multiple": True, "metavar": "TYPE", "help": "The type of the machine, like g6.xlarge, or several."},
    ),
    (("--spot", "spot"), {"flag_value": "spot", "help": "Only a spot machine: cheap, and may be taken back."}),
    (
        ("--spot-fallback", "spot"),
        {"flag_value": "spot_with_fallback", "help": "Spot, or on demand when no spot machine is to be had."},
    ),
    (("--spot-any", "spot"), {"flag_value": "any", "help": "Spot or on demand, whichever is cheaper."}),
    (("--on-demand", "spot"), {"flag_value": "on_demand", "help": "Never a spot machine."}),
    (
        ("--max-hourly-cost",),
        {"type": float, "metavar": "DOLLARS", "help": "The most that a machine rented for it may cost in an hour."},
    ),
    (("--arch",), {"type": click.Choice(["x86_64", "arm64"]), "help": "The architecture of the machine."}),
    (
        ("--any-of",),
        {
            "multiple": True,
            "type": Alternative(),
            "metavar": "NEEDS",
            "help": "Alternatives, like 'gpus=A100:8 infra=aws'; the cheapest will do.",
        },
    ),
    (
        ("--ordered",),
        {"multiple": True, "type": Alternative(), "metavar": "NEEDS", "help": "The same, best first."},
    ),
    (
        ("--require-label", "require_labels"),
        {"multiple": True, "type": Pair(), "metavar": "K=V", "help": "A label that the machine must carry."},
    ),
    (("--pool",), {"metavar": "NAME", "help": "The pool to run in."}),
    (("--image",), {"metavar": "IMAGE", "help": "Container image (not offered by this version of the server)."}),
    (
        ("--label", "-l", "labels"),
        {"multiple": True, "type": Pair(), "metavar": "K=V", "help": "A label on the task, to find it again."},
    ),
    (("--priority",), {"type": int, "metavar": "N", "help": "Larger goes first; -1000 to 1000."}),
    (("--timeout",), {"type": Duration(), "metavar": "TIME", "help": "Stop the command after this long."}),
    (("--stop-grace",), {"type": Duration(), "metavar": "TIME", "help": "Time to stop in before it is killed."}),
    (
        ("--disconnect-timeout",),
        {
            "type": Duration(or_never=True),
            "metavar": "TIME",
            "help": "How long it runs on while its machine reaches no server, or never to stop.",
        },
    ),
    (("--at-most-once",), {"is_flag": True, "default": None, "help": "Never start it a second time."}),
    (("--retries",), {"type": click.IntRange(0, 1000), "metavar": "N", "help": "Further tries when it fails."}),
    (("--backoff",), {"type": Duration(), "metavar": "TIME", "help": "Wait before the first of them; doubles."}),
    (
        ("--retry-on-exit-code", "on_exit_codes"),
        {"multiple": True, "type": int, "metavar": "CODE", "help": "Retry only these codes."},
    ),
    (("--request-id",), {"metavar": "ID", "help": "Repeats of one id never make a second task."}),
)


def task_options(function: F) -> F:
    """Adds the options to a command."""
    for names, attributes in reversed(_OPTIONS):
        function = click.option(*names, **attributes)(function)
    return function


def build_spec(words: Sequence[str], options: dict[str, Any], *, script: Script | None = None) -> TaskSpec:
    """The task that was described; takes its words out of `options`.

    Raises:
        click.UsageError: there is no command, or there are two.
        InvalidRequest: a value cannot be read.
    """
    from styx.models import RetryPolicy
    from styx.spec import task_spec

    line = options.pop("line")
    if sum((bool(words) and script is None, line is not None, script is not None)) != 1:
        raise click.UsageError(_how_many(words, line), ctx=click.get_current_context())
    given = {name: value for name, value in options.items() if value is not None and value != ()}
    _gather_place(given)
    for name in _PAIRS:
        if name in given:
            given[name] = mapping(given[name])
    retries, backoff, codes = (given.pop(name, None) for name in ("retries", "backoff", "on_exit_codes"))
    if retries is not None or backoff is not None or codes:
        given["retry"] = RetryPolicy(max_retries=retries or 0, backoff=backoff, on_exit_codes=codes or ())
    if script is not None:
        given.setdefault("name", script.name)
        return task_spec(script.command(words), **given)
    return task_spec(line if line is not None else tuple(words), **given)


def _gather_place(given: dict[str, Any]) -> None:
    """Makes one place of its parts."""
    parts = [given.pop(name, None) for name in ("provider", "region", "zone")]
    if not any(parts):
        return
    if "infra" in given:
        text = "the place is given twice; take --infra, or --provider, --region and --zone"
        raise click.UsageError(text, ctx=click.get_current_context())
    given["infra"] = "/".join(part or "*" for part in parts).removesuffix("/*").removesuffix("/*")


class Script:
    """The text of a script, and where it came from."""

    def __init__(self, name: str, text: str) -> None:
        self.name = PurePath(name).name if name != "-" else "stdin"
        self._text = text

    def command(self, arguments: Sequence[str]) -> str | tuple[str, ...]:
        """What runs it: the shell, or the interpreter that its first line names."""
        interpreter = self._interpreter()
        if interpreter is None:
            return ("/bin/sh", "-c", self._text, self.name, *arguments) if arguments else self._text
        wrapper = _WITH_FILE.format(interpreter=shlex.join(interpreter))
        return ("/bin/sh", "-c", wrapper, self.name, self._text, *arguments)

    def _interpreter(self) -> tuple[str, ...] | None:
        first = self._text.split("\n", 1)[0]
        if not first.startswith("#!"):
            return None
        words = tuple(shlex.split(first[2:]))
        return None if not words or words in (("/bin/sh",), ("/usr/bin/sh",)) else words


# An interpreter wants a file; it is made on the machine and removed after the run. $1 is the text of the script.
_WITH_FILE = """\
f=$(mktemp) && printf %s "$1" >"$f" || exit 126
shift
{interpreter} "$f" "$@"
code=$?
rm -f "$f"
exit $code"""


def _how_many(words: Sequence[str], line: str | None) -> str:
    if not words and line is None:
        return "there is no command; write it after --, as in `styx run -- echo hello`"
    return "there is more than one command; give CMD, or -c LINE, or -f FILE"
