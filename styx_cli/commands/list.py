"""`styx list`: tasks, newest first."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import click

from styx_cli import clock
from styx_cli.live import keep_showing
from styx_cli.main import StyxCommand
from styx_cli.render import lines_of_list
from styx_cli.settings import Settings, say
from styx_cli.words import Pair

if TYPE_CHECKING:
    from styx.models import Task
    from styx.sync import Client

EXAMPLES = """\
styx list                               the newest 50
styx list --state running,pending
styx list --label team=nlp --all -o jsonl
styx list --filter 'agent=a3 AND id>t100'
styx list --state failed -o name | xargs styx retry"""

_STATES = ("PENDING", "RUNNING", "CANCELLING", "SUCCEEDED", "FAILED", "CANCELLED", "TIMED_OUT", "LOST")
_LIMIT = 50


class States(click.ParamType):  # type: ignore[type-arg]
    """Names of states, separated by commas, in any case."""

    name = "states"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """Reads the names."""
        names = tuple(name.strip().upper().replace("-", "_") for name in str(value).split(",") if name.strip())
        for name in names:
            if name not in _STATES:
                self.fail(f"{name!r} is not a state; there are {', '.join(_STATES)}", param, ctx)
        return names


@click.command("list", cls=StyxCommand, examples=EXAMPLES)
@click.option("--state", "-s", "states", multiple=True, type=States(), metavar="STATE", help="Only these states.")
@click.option("--label", "-l", "labels", multiple=True, type=Pair(), metavar="K=V", help="Only with this label.")
@click.option("--name", "task_name", metavar="NAME", help="Only with exactly this name.")
@click.option("--filter", "terms", metavar="TERMS", help="Terms of the API, joined by AND.")
@click.option("--limit", "-n", type=click.IntRange(min=1), metavar="N", help=f"At most this many. Default: {_LIMIT}.")
@click.option("--all", "-a", "everything", is_flag=True, help="All of them, however many.")
@click.option("-w", "--watch", is_flag=True, help="Show it again whenever something changes.")
@click.pass_obj
def command(  # noqa: PLR0913 - one parameter for each option
    settings: Settings,
    *,
    states: Sequence[tuple[str, ...]],
    labels: Sequence[tuple[str, str]],
    task_name: str | None,
    terms: str | None,
    limit: int | None,
    everything: bool,
    watch: bool,
) -> None:
    """List tasks, newest first."""
    wanted = tuple(itertools.chain.from_iterable(states))
    text = make_filter(states=wanted, labels=labels, name=task_name, terms=terms)
    bound = limit or (None if everything else _LIMIT)
    with settings.client() as client:
        updates = client.watch(filter=text, changes_only=True) if watch else None
        keep_showing(settings, updates, lambda: _lines(settings, client, text, bound, told=limit is not None))


def make_filter(
    *, states: Sequence[str], labels: Sequence[tuple[str, str]], name: str | None, terms: str | None
) -> str:
    """The filter of the API for the options."""
    parts = [f"state={','.join(states)}"] if states else []
    parts += [f"label.{key}={quoted(value)}" for key, value in labels]
    parts += [f"name={quoted(name)}"] if name is not None else []
    parts += [terms] if terms else []
    return " AND ".join(parts)


def quoted(text: str) -> str:
    """A value of a filter, in quotes."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _lines(settings: Settings, client: Client, text: str, bound: int | None, *, told: bool) -> Iterator[str]:
    from styx_cli.views import task_columns

    tasks: Iterable[Task] = client.list_tasks(filter=text, limit=None if bound is None else bound + 1)
    if bound is not None:
        found = list(tasks)
        if len(found) > bound and not told and settings.is_for_people:
            say(settings, f"the newest {bound}; --all shows all")
        tasks = found[:bound]
    return lines_of_list(settings, tasks, task_columns(clock.now()), name=lambda task: task.id)
