"""`styx gpus`: models of accelerators that there are to rent."""

from __future__ import annotations

import click

from styx_cli.main import StyxCommand
from styx_cli.render import lines_of_list, put_all
from styx_cli.settings import Settings

EXAMPLES = """\
styx gpus
styx gpus A100        in which numbers, and where they are cheapest"""


@click.command("gpus", cls=StyxCommand, examples=EXAMPLES)
@click.argument("name", required=False, default="", metavar="[NAME]")
@click.pass_obj
def command(settings: Settings, *, name: str) -> None:
    """List models of accelerators, how many are in a machine, and where they are cheapest."""
    from styx_cli.machine_views import gpu_columns

    with settings.client() as client:
        found = client.gpus(name)
        put_all(lines_of_list(settings, found, gpu_columns(), name=lambda model: f"{model.name}:{model.count}"))
