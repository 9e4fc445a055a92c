"""`styx version`: which programs are at work. Imports next to nothing, and asks the server over plain HTTP at most."""

from __future__ import annotations

import click

import styx
from styx_cli.main import StyxCommand
from styx_cli.render import encode, put
from styx_cli.settings import Settings, say


@click.command(
    "version",
    cls=StyxCommand,
    examples="styx version\nstyx version --client -o json",
)
@click.option("--client", "client_only", is_flag=True, help="Only this program; does not look for a server.")
@click.pass_obj
def command(settings: Settings, *, client_only: bool) -> None:
    """Print the version of this program, and of the server when one is known."""
    versions = {"client": styx.__version__}
    server = None if client_only else _server_version(settings)
    if server:
        versions["server"] = server
    if settings.output == "name":
        put(styx.__version__)
    elif settings.is_for_people:
        put("\n".join(f"{name} {version}" for name, version in versions.items()))
    else:
        put(encode(settings, versions))


def _server_version(settings: Settings) -> str | None:
    """From the local data folder at no cost, else from the address that was named."""
    from styx.errors import StyxError
    from styx.locate import locate, read_endpoint

    try:
        url = locate(settings.server, settings.token, data_dir=settings.data_dir).addresses[0].url
    except StyxError:
        return None
    local = read_endpoint(settings.folder())
    if local is not None and local.http == url:
        return local.version
    try:
        return _ask(url)
    except (OSError, ValueError, KeyError, TypeError) as error:
        say(settings, f"the server at {url} does not say its version: {error}")
        return None


def _ask(url: str) -> str:
    import json
    from urllib.parse import urlsplit
    from urllib.request import urlopen

    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError("only http addresses tell")
    with urlopen(f"{url.rstrip('/')}/.well-known/styx.json", timeout=3.0) as response:  # noqa: S310 - the scheme was checked
        return str(json.loads(response.read(65536))["version"])
