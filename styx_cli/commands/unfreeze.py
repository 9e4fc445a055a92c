"""`styx unfreeze`: lets renting go on."""

from __future__ import annotations

import click

from styx_cli.main import StyxCommand
from styx_cli.render import encode, put
from styx_cli.settings import Settings


@click.command("unfreeze", cls=StyxCommand, examples="styx unfreeze")
@click.pass_obj
def command(settings: Settings) -> None:
    """Let renting go on after `styx freeze`."""
    from styx_cli.machine_views import renting_line
    from styx_cli.render import data_of

    with settings.client() as client:
        renting = client.set_renting(frozen=False)
    put(renting_line(renting) if settings.is_for_people else encode(settings, data_of(renting)))
