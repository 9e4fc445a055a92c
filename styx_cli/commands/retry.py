"""`styx retry`: one more attempt."""

from __future__ import annotations

import click

from styx_cli import clock
from styx_cli.main import StyxCommand
from styx_cli.render import lines_of_list, put_all
from styx_cli.settings import Settings

EXAMPLES = """\
styx retry t42
styx list --state lost -o name | xargs styx retry"""


@click.command("retry", cls=StyxCommand, examples=EXAMPLES)
@click.argument("task_ids", nargs=-1, required=True, metavar="ID...")
@click.pass_obj
def command(settings: Settings, *, task_ids: tuple[str, ...]) -> None:
    """Give tasks that did not succeed one more attempt each."""
    with settings.client() as client:
        tasks = [client.retry(task_id) for task_id in task_ids]
    from styx_cli.views import task_columns

    put_all(lines_of_list(settings, tasks, task_columns(clock.now()), name=lambda task: task.id))
