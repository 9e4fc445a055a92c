"""`styx check`: whether providers can be used, and what to do when they cannot."""

from __future__ import annotations

import click

from styx_cli.main import StyxCommand
from styx_cli.render import lines_of_list, put_all
from styx_cli.settings import Settings, say

EXAMPLES = """\
styx check            all providers that the server is configured for
styx check aws"""


@click.command("check", cls=StyxCommand, examples=EXAMPLES)
@click.argument("providers", nargs=-1, metavar="[PROVIDER]...")
@click.pass_obj
def command(settings: Settings, *, providers: tuple[str, ...]) -> None:
    """Ask providers whether they can be used: identity, permissions, regions, image, network.

    Ends with 1 when one of them cannot.
    """
    from styx_cli.machine_views import check_lines

    checks = []
    with settings.client() as client:
        for check in client.check_providers(*providers):
            checks.append(check)
            if settings.is_for_people:
                put_all(check_lines(check))
    if not settings.is_for_people:
        put_all(lines_of_list(settings, checks, [], name=lambda check: check.provider))
    elif not checks:
        say(settings, "no provider is configured on this server, so it rents nothing")
    if not all(check.usable for check in checks):
        raise click.exceptions.Exit(1)
