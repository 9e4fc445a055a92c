"""`styx down`: stops what `styx up` started."""

from __future__ import annotations

import click

from styx_cli.exits import Exit
from styx_cli.main import StyxCommand
from styx_cli.settings import Settings, say

EXAMPLES = """\
styx down
styx down --data-dir /tmp/styx"""


@click.command("down", cls=StyxCommand, examples=EXAMPLES)
@click.pass_obj
def command(settings: Settings) -> int:
    """Stop the Styx that `styx up` started with this data folder, and wait until it is gone.

    Agents stop their tasks first, then the server stops. Nothing is deleted. When nothing runs, that is fine too.
    """
    from styx_cli.local import background
    from styx_cli.local.folder import LocalFolder

    folder = LocalFolder(settings.folder())
    try:
        stopped = background.stop(folder)
    except (TimeoutError, ProcessLookupError, PermissionError) as error:
        raise click.ClickException(str(error)) from None
    say(settings, "stopped" if stopped else f"nothing runs with the data folder {folder.root}")
    return Exit.OK
