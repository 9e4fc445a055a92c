"""`styx cancel`: asks tasks to stop."""

from __future__ import annotations

from datetime import timedelta

import click

from styx_cli import clock
from styx_cli.main import StyxCommand
from styx_cli.render import lines_of_list, put_all
from styx_cli.settings import Settings
from styx_cli.words import Duration

EXAMPLES = """\
styx cancel t42
styx cancel t42 t43 --stop-grace 5s
styx list --label team=nlp --state pending --all -o name | xargs styx cancel"""


@click.command("cancel", cls=StyxCommand, examples=EXAMPLES)
@click.argument("task_ids", nargs=-1, required=True, metavar="ID...")
@click.option("--stop-grace", type=Duration(), metavar="TIME", help="Time to stop in before it is killed.")
@click.pass_obj
def command(settings: Settings, *, task_ids: tuple[str, ...], stop_grace: timedelta | None) -> None:
    """Stop tasks.

    A task that waits is CANCELLED at once. One that runs is CANCELLING until no process of it is left; `styx wait`
    waits for that. One that has ended stays as it is. When one id is unknown, nothing is cancelled.
    """
    with settings.client() as client:
        tasks = client.cancel(*task_ids, stop_grace=stop_grace)
    from styx_cli.views import task_columns

    put_all(lines_of_list(settings, tasks, task_columns(clock.now()), name=lambda task: task.id))
