"""`styx submit`: stores a task, prints its id, leaves."""

from __future__ import annotations

import sys
from typing import Any

import click

from styx_cli.main import StyxCommand
from styx_cli.render import encode, put
from styx_cli.settings import Settings
from styx_cli.task_options import Script, build_spec, task_options

EXAMPLES = """\
styx submit -- python train.py --epochs 3     program and arguments, no shell
styx submit -c 'make && make test | tee log'  a shell line
styx submit -f job.sh                         a script
cat job.sh | styx submit -f -
styx submit --cpus 4 --memory 8GiB --gpus A100:1 --timeout 2h --retries 2 -- ./work"""


@click.command("submit", cls=StyxCommand, examples=EXAMPLES, context_settings={"allow_interspersed_args": False})
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[--] CMD [ARGS]...")
@click.option("-f", "--file", "script", type=click.File("r"), metavar="FILE", help="A script; - reads it from stdin.")
@task_options
@click.pass_obj
def command(
    settings: Settings, /, *, words: tuple[str, ...], script: Any, request_id: str | None, **options: Any
) -> None:
    """Submit a command and print the id of its task.

    When the id is printed, the task is stored and survives any crash. With -f the words after -- are the arguments of
    the script.
    """
    text = _read(script) if script is not None else None
    spec = build_spec(words, options, script=text)
    with settings.client() as client:
        task_id = client.submit_task(spec, request_id=request_id)
    put(task_id if settings.is_for_people or settings.output == "name" else encode(settings, {"taskId": task_id}))


def _read(script: Any) -> Script:
    name = script.name if script is not sys.stdin else "-"
    try:
        return Script(name, script.read())
    except UnicodeDecodeError as error:
        raise click.UsageError(f"the script {name} is not UTF-8: {error.reason} at byte {error.start}") from None
