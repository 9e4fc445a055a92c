"""`styx plan`: what would be rented for a command, and why; rents nothing."""

from __future__ import annotations

from typing import Any

import click

from styx_cli import clock
from styx_cli.main import StyxCommand
from styx_cli.render import lines_of_one, put_all
from styx_cli.settings import Settings
from styx_cli.task_options import build_spec, task_options

EXAMPLES = """\
styx plan --gpus L4:1 --spot -- python train.py
styx plan --cpus 4 --memory 16GiB --count 100 -- ./work
styx plan --pool gpu --gpus A100:8 -- torchrun train.py"""


@click.command("plan", cls=StyxCommand, examples=EXAMPLES, context_settings={"allow_interspersed_args": False})
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[--] CMD [ARGS]...")
@click.option("--count", type=click.IntRange(1, 10_000), default=1, metavar="N", help="So many of it at once.")
@task_options
@click.pass_obj
def command(
    settings: Settings, /, *, words: tuple[str, ...], count: int, request_id: str | None, **options: Any
) -> None:
    """Say what would be rented for a command if nothing else waited: machines, price for an hour, and why.

    Takes the options of `styx submit`, so that one word is all that changes. The command may be left out.
    """
    from styx_cli.machine_views import plan_lines

    del request_id
    if not words and options["line"] is None:
        words = ("true",)
    with settings.client() as client:
        plan = client.plan(build_spec(words, options), count=count)
    put_all(lines_of_one(settings, plan, name=_types(plan), people=lambda: plan_lines(plan, clock.now())))
    if not plan.machines and not plan.agent_ids:
        raise click.exceptions.Exit(1)


def _types(plan: Any) -> str:
    return "\n".join(machines.offer.machine_type for machines in plan.machines if machines.offer)
