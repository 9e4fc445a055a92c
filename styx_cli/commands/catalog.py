"""`styx catalog`: what the server knows of types and prices."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import click

from styx_cli.main import StyxGroup
from styx_cli.settings import Settings, say

EXAMPLES = """\
styx catalog refresh            ask all providers for their prices
styx catalog refresh gcp
styx catalog import aws vms.csv"""

IMPORT_EXAMPLES = """\
styx catalog import aws vms.csv
curl -L https://example.com/catalogs/gcp/vms.csv | styx catalog import gcp -"""

_GZIP = b"\x1f\x8b"


@click.group("catalog", cls=StyxGroup, examples=EXAMPLES)
def command() -> None:
    """Renew what the server knows of types and prices."""


@command.command("refresh", examples="styx catalog refresh\nstyx catalog refresh aws gcp")
@click.argument("providers", nargs=-1, metavar="[PROVIDER]...")
@click.pass_obj
def refresh(settings: Settings, *, providers: tuple[str, ...]) -> None:
    """Ask providers for their types and prices. May take minutes; what a provider refuses stays as it was known."""
    failed = False
    with settings.client() as client:
        for answer in client.refresh_catalog(*providers):
            failed = failed or bool(answer.error)
            words = f"failed: {answer.error}" if answer.error else f"{answer.entry_count} types and places"
            say(settings, f"{answer.provider}: {words}")
    if failed:
        raise click.exceptions.Exit(1)


@command.command("import", examples=IMPORT_EXAMPLES)
@click.argument("provider", metavar="PROVIDER")
@click.argument("file", metavar="FILE", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.pass_obj
def import_(settings: Settings, *, provider: str, file: str) -> None:
    """Take types and prices of a provider from a CSV file in the format of SkyPilot's catalog; - reads stdin."""
    data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    packed = data if data.startswith(_GZIP) else gzip.compress(data)
    with settings.client() as client:
        count = client.import_catalog(provider, packed)
    say(settings, f"{provider}: {count} types and places")
