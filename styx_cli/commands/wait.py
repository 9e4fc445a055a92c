"""`styx wait`: until tasks have ended; the exit code is theirs."""

from __future__ import annotations

from datetime import timedelta

import click

from styx_cli import clock
from styx_cli.exits import code_of_task
from styx_cli.main import StyxCommand
from styx_cli.render import lines_of_list, put_all
from styx_cli.settings import Settings
from styx_cli.words import Duration

EXAMPLES = """\
styx wait t42 && echo done     exits with the task's own code
styx wait t42 t43 t44          with the first code that is not 0
styx wait t42 --timeout 10m    with 124 when it takes longer"""


@click.command("wait", cls=StyxCommand, examples=EXAMPLES)
@click.argument("task_ids", nargs=-1, required=True, metavar="ID...")
@click.option("--timeout", type=Duration(), metavar="TIME", help="Wait at most this long; the tasks go on.")
@click.pass_obj
def command(settings: Settings, *, task_ids: tuple[str, ...], timeout: timedelta | None) -> int:
    """Wait until tasks have ended.

    The exit code is that of the task; of several tasks, the first that is not 0. Codes from 120 to 127 are our own:
    121 timed out, 122 cancelled, 123 lost, 124 --timeout ran out, 125 no server, 126 no permission, 127 no such task.
    """
    from styx.models import TaskState
    from styx_cli.views import task_columns

    with settings.client() as client:
        seconds = None if timeout is None else timeout.total_seconds()
        ended = client.wait_all(task_ids, timeout=seconds)
        # Only the full task says which signal ended it.
        full = [client.get_task(task.id) if task.state is TaskState.FAILED else task for task in ended]
    if not settings.quiet or not settings.is_for_people:
        put_all(lines_of_list(settings, ended, task_columns(clock.now()), name=lambda task: task.id))
    return next((code for code in map(code_of_task, full) if code), 0)
