"""`styx status`: everything at a glance, or one task in full."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from styx_cli import clock
from styx_cli.live import keep_showing
from styx_cli.main import StyxCommand
from styx_cli.render import data_of, encode, lines_of_one, table
from styx_cli.settings import Settings

if TYPE_CHECKING:
    from styx.models import Agent, ServerInfo, Task
    from styx.sync import Client

EXAMPLES = """\
styx status              server, agents, the latest tasks
styx status t42          one task with its attempts and timeline
styx status t42 --watch  until it has ended"""

_RECENT = 10


@click.command("status", cls=StyxCommand, examples=EXAMPLES)
@click.argument("task_id", required=False, metavar="[ID]")
@click.option("-w", "--watch", is_flag=True, help="Show it again whenever it changes.")
@click.pass_obj
def command(settings: Settings, *, task_id: str | None, watch: bool) -> None:
    """The state of everything, or of one task in full."""
    with settings.client() as client:
        if task_id is None:
            updates = client.watch(changes_only=True) if watch else None
            keep_showing(settings, updates, lambda: _overview(settings, client))
        else:
            updates = client.watch([task_id]) if watch else None
            keep_showing(settings, updates, lambda: _task(settings, client, task_id), until_ended=True)


def _task(settings: Settings, client: Client, task_id: str) -> Iterator[str]:
    from styx_cli.views import task_lines

    task = client.get_task(task_id)
    return lines_of_one(settings, task, name=task.id, people=lambda: task_lines(task, clock.now()))


def _overview(settings: Settings, client: Client) -> Iterator[str]:
    info = client.server_info()
    agents = list(client.agents())
    tasks = list(client.list_tasks(limit=_RECENT))
    if settings.is_for_people:
        return _overview_for_people(settings, info, agents, tasks)
    if settings.output == "name":
        return (task.id for task in tasks)
    lists = {"agents": [data_of(agent) for agent in agents], "tasks": [data_of(task) for task in tasks]}
    return iter([encode(settings, {"server": data_of(info), **lists})])


def _overview_for_people(settings: Settings, info: ServerInfo, agents: list[Agent], tasks: list[Task]) -> Iterator[str]:
    from styx_cli.views import agent_columns, server_lines, task_columns

    now = info.server_time or clock.now()
    yield from server_lines(info, now)
    if agents:
        yield from ("", *table(settings, agents, agent_columns(now)))
    if tasks:
        yield from ("", *table(settings, tasks, task_columns(now)))
