"""`styx cost`: what rented machines have cost, and what they cost now."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import click

from styx_cli import clock
from styx_cli.main import StyxCommand
from styx_cli.render import lines_of_one, put_all, table
from styx_cli.settings import Settings
from styx_cli.words import Duration

EXAMPLES = """\
styx cost                           the last 30 days, and the rate now
styx cost --since 7d --by day
styx cost --by label --label team
styx cost --by task --pool gpu --since 2026-01-01"""

GROUPS = ("pool", "namespace", "task", "instance", "day", "label", "provider")


@click.command("cost", cls=StyxCommand, examples=EXAMPLES)
@click.option("--since", metavar="TIME", default="30d", help="A span like 7d, or a date. Default: 30d.")
@click.option("--until", metavar="DATE", help="A date. Default: now.")
@click.option("--by", type=click.Choice(GROUPS), help="What to make entries of.")
@click.option("--label", metavar="KEY", default="", help="For --by label: which one.")
@click.option("--pool", metavar="NAME", default="", help="Only machines of this pool.")
@click.option("--task", metavar="ID", default="", help="Only this task, without idle time.")
@click.pass_obj
def command(settings: Settings, /, *, since: str, until: str | None, by: str | None, **options: str) -> None:
    """Say what was spent, and what is being spent now.

    A task pays for its share of each machine that it ran on: the larger of its shares of cores and of accelerators,
    for as long as it held them. The rest is idle time, and belongs to the pool.
    """
    from styx.machine_models import CostGroup
    from styx_cli.machine_views import cost_columns, cost_lines

    end = _date(until) if until else None
    group = CostGroup[by.upper()] if by else CostGroup.UNKNOWN
    part = {"pool": options["pool"], "task_id": options["task"]}
    with settings.client() as client:
        report = client.cost(
            start=_start(since, end),
            end=end,
            by=group,
            label_key=options["label"],
            **part,
        )
    names = "\n".join(entry.key for entry in report.entries)
    put_all(lines_of_one(settings, report, name=names, people=lambda: cost_lines(report)))
    if by and settings.is_for_people:
        put_all(["", *table(settings, list(report.entries), cost_columns(options["label"] or by))])


def _start(text: str, end: datetime | None) -> datetime:
    try:
        span = Duration().convert(text, None, None)
    except click.UsageError:
        return _date(text)
    assert isinstance(span, timedelta)
    return (end or clock.now()) - span


def _date(text: str) -> datetime:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise click.UsageError(
            f"{text!r} is no date like 2026-01-31 or 2026-01-31T10:00:00Z, and no span like 7d"
        ) from None
    return when if when.tzinfo else when.replace(tzinfo=UTC)
