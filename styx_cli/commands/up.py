"""`styx up`: a whole Styx on this machine, in one command."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from styx_cli.exits import Exit, complain, hint
from styx_cli.main import StyxCommand
from styx_cli.render import put
from styx_cli.settings import Settings, say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from styx_cli.local.folder import LocalFolder

EXAMPLES = """\
styx up                            server, database and one agent; Ctrl-C stops all
styx up --agents 3                 three agents that share the machine
styx up --replicas 3 --agents 2    three servers on one database: kill one and see
styx up --agents 0 --fake-cloud    a made-up cloud to rent from, with real agents on this machine
styx up --detach                   in the background; `styx down` stops it
styx up --grpc-port 0 --http-port 0 --data-dir /tmp/styx"""


@click.command("up", cls=StyxCommand, examples=EXAMPLES)
@click.option("--agents", type=click.IntRange(0, 64), default=1, metavar="N", help="How many agents. Default: 1.")
@click.option("--replicas", type=click.IntRange(1, 9), default=1, metavar="N", help="How many servers. Default: 1.")
@click.option("--grpc-port", type=click.IntRange(0, 65535), metavar="PORT", help="Default: 50051; 0: any free one.")
@click.option("--http-port", type=click.IntRange(0, 65535), metavar="PORT", help="Default: 8080; 0: any free one.")
@click.option("--database-url", metavar="URL", help="A PostgreSQL to use. Default: one of its own in the data folder.")
@click.option("--fake-cloud", is_flag=True, help="Rent machines from a made-up cloud: to try everything for nothing.")
@click.option("-d", "--detach", is_flag=True, help="Return when everything is ready; it goes on in the background.")
@click.pass_obj
def command(  # noqa: PLR0913 - one parameter for each option
    settings: Settings,
    *,
    agents: int,
    replicas: int,
    grpc_port: int | None,
    http_port: int | None,
    database_url: str | None,
    fake_cloud: bool,
    detach: bool,
) -> int:
    """Start a whole Styx on this machine: database, server, agents.

    Tasks and logs are kept in the data folder and are there again after a restart. Addresses are written to
    endpoint.json in it, where `styx` finds them by itself. With several servers the ports are those of the first; the
    others take free ones.
    """
    from styx_cli.local.folder import LocalFolder

    folder = LocalFolder(settings.folder())
    folder.prepare()
    options = {
        "agents": agents,
        "replicas": replicas,
        "grpc_port": grpc_port,
        "http_port": http_port,
        "database_url": database_url,
    }
    if detach:
        flags = {name.replace("_", "-"): value for name, value in options.items() if value is not None}
        words = [f"--{name}={value}" for name, value in flags.items()]
        return _detach(settings, folder, [*words, *(["--fake-cloud"] if fake_cloud else [])])
    from styx_cli.local.plan import UpOptions
    from styx_cli.local.stack import Stack

    wanted = UpOptions(
        agents=agents,
        replicas=replicas,
        grpc_port=grpc_port,
        http_port=http_port,
        database_url=database_url,
        providers="fake" if fake_cloud else None,
    )

    async def run() -> None:
        await Stack(folder, wanted, put_now).run()

    with _alone(folder):
        say(settings, "starting; Ctrl-C stops everything")
        asyncio.run(run())
    return Exit.OK


def put_now(text: str) -> None:
    """A line that people see at once, also in a log."""
    import sys

    put(text)
    sys.stdout.flush()


@contextmanager
def _alone(folder: LocalFolder) -> Iterator[None]:
    from styx_cli.local.folder import Busy

    try:
        with folder.held():
            yield
    except Busy as error:
        raise click.ClickException(_already(folder, error.pid)) from None


def _detach(settings: Settings, folder: LocalFolder, options: list[str]) -> int:
    from styx_cli.local import background

    with _alone(folder):
        pass
    arguments = [*options, f"--data-dir={folder.root}", "--quiet", "--no-color"]
    code = background.start(folder, arguments)
    if code:
        complain(f"it did not start\n{background.words(folder)}")
        hint(f"logs are in {folder.logs}")
        return Exit.FAILURE
    put_now(background.words(folder))
    say(settings, "`styx down` stops it")
    return Exit.OK


def _already(folder: LocalFolder, pid: int | None) -> str:
    who = f"process {pid}" if pid else "another process"
    remedy = "stop it with `styx down`, or name another folder with --data-dir"
    return f"a `styx up` runs with the data folder {folder.root} already ({who}); {remedy}"
