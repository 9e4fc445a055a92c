"""`styx run`: a command somewhere else that feels like one here."""

from __future__ import annotations

from typing import Any

import click

from styx_cli.main import StyxCommand
from styx_cli.settings import Settings
from styx_cli.task_options import build_spec, task_options

EXAMPLES = """\
styx run -- python train.py --epochs 3    program and arguments, no shell
styx run -c 'make && make test'           a shell line
styx run --cpus 4 --memory 8GiB --gpus A100:1 --timeout 2h -- ./work
styx run -e HOME -e MODE=fast -- env"""


@click.command("run", cls=StyxCommand, examples=EXAMPLES, context_settings={"allow_interspersed_args": False})
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[--] CMD [ARGS]...")
@task_options
@click.pass_obj
def command(settings: Settings, /, *, words: tuple[str, ...], request_id: str | None, **options: Any) -> int:
    """Run a command, follow its output, exit with its code.

    Its stdout comes to stdout and its stderr to stderr. Ctrl-C asks whether to detach or to cancel; without a terminal
    it cancels. Exit codes from 120 to 127 are our own: 121 timed out, 122 cancelled, 123 lost, 125 no server, 126 no
    permission, 127 no such thing, 120 the command line or the task was refused.
    """
    from styx_cli.foreground import run_in_foreground

    return run_in_foreground(settings, build_spec(words, options), request_id)
