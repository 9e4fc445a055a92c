"""`styx freeze`: stops all renting."""

from __future__ import annotations

import click

from styx_cli.main import StyxCommand
from styx_cli.render import encode, put
from styx_cli.settings import Settings


@click.command("freeze", cls=StyxCommand, examples="styx freeze")
@click.pass_obj
def command(settings: Settings) -> None:
    """Stop all renting. What is rented goes on, and is given back as ever."""
    from styx_cli.machine_views import renting_line
    from styx_cli.render import data_of

    with settings.client() as client:
        renting = client.set_renting(frozen=True)
    put(renting_line(renting) if settings.is_for_people else encode(settings, data_of(renting)))
