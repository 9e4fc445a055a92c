"""`styx instance`: rented machines. See them, give them back."""

from __future__ import annotations

from datetime import timedelta

import click

from styx_cli import clock
from styx_cli.main import StyxGroup
from styx_cli.render import lines_of_list, lines_of_one, put_all
from styx_cli.settings import Settings
from styx_cli.words import Duration

EXAMPLES = """\
styx instance list
styx instance list --all --filter 'pool=gpu AND state=FAILED'
styx instance show i9
styx instance terminate i9 --deadline 10m"""

LIST_EXAMPLES = """\
styx instance list                                what may cost money now
styx instance list --all                          also what has ended or was refused
styx instance list --pool gpu --state READY
styx instance list --filter 'provider=aws AND region!=us-east-1'"""

TERMINATE_EXAMPLES = """\
styx instance terminate i9                   no new work; ended when nothing runs there any more
styx instance terminate i9 --deadline 10m    what still runs then is stopped, and runs elsewhere
styx instance terminate i9 --now             at once; what runs there dies with the machine"""


@click.group("instance", cls=StyxGroup, examples=EXAMPLES)
def command() -> None:
    """See rented machines, and give them back."""


@command.command("list", examples=LIST_EXAMPLES)
@click.option("-a", "--all", "include_ended", is_flag=True, help="Also those that have ended or were refused.")
@click.option("--pool", metavar="NAME", help="Only of this pool.")
@click.option("--state", "-s", metavar="STATE", help="Only in this state; several with commas.")
@click.option("--filter", "terms", metavar="TERMS", help="Terms joined by AND: pool, state, provider, region, agent.")
@click.pass_obj
def list_(settings: Settings, *, include_ended: bool, pool: str | None, state: str | None, terms: str | None) -> None:
    """List rented machines, newest first."""
    from styx_cli.machine_views import instance_columns

    named = (("pool", pool), ("state", state.upper() if state else None))
    filters = [*(f"{name}={value}" for name, value in named if value), *([terms] if terms else [])]
    with settings.client() as client:
        found = client.instances(filter=" AND ".join(filters), include_ended=include_ended)
        put_all(lines_of_list(settings, found, instance_columns(clock.now()), name=lambda instance: instance.id))


@command.command("show", examples="styx instance show i9")
@click.argument("instance_id", metavar="ID")
@click.pass_obj
def show(settings: Settings, *, instance_id: str) -> None:
    """One rented machine in full, with what it has cost."""
    from styx_cli.machine_views import instance_lines

    with settings.client() as client:
        found = client.instance(instance_id)
    put_all(lines_of_one(settings, found, name=found.id, people=lambda: instance_lines(found, clock.now())))


@command.command("terminate", examples=TERMINATE_EXAMPLES)
@click.argument("instance_ids", metavar="ID...", nargs=-1, required=True)
@click.option("--deadline", type=Duration(), metavar="TIME", help="From then on, stop what still runs there.")
@click.option("--now", is_flag=True, help="Wait for nothing: what runs there dies with the machine.")
@click.pass_obj
def terminate(settings: Settings, *, instance_ids: tuple[str, ...], deadline: timedelta | None, now: bool) -> None:
    """Give rented machines back. Without --now what runs there may end, at most until the deadline."""
    from styx_cli.machine_views import instance_columns

    if now and deadline is not None:
        raise click.UsageError("--now goes not with --deadline")
    with settings.client() as client:
        after = [client.terminate_instance(each, deadline=deadline, now=now) for each in instance_ids]
    put_all(lines_of_list(settings, after, instance_columns(clock.now()), name=lambda instance: instance.id))
