"""What the global options say, for the command that runs. Environment and files are the SDK's business."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from styx.client import AsyncClient
    from styx.sync import Client

FORMATS = ("table", "wide", "json", "jsonl", "yaml", "name")


@dataclass(slots=True, kw_only=True)
class Settings:
    """Filled while the words are parsed; the last place that names a thing wins.

    Attributes:
        server: address of the server, or None: the SDK finds it.
        token: or None: the SDK finds it.
        data_dir: data folder of a server on this machine, or None: the usual one.
        output: one of `FORMATS`.
        no_color: never colour.
        quiet: no talk, only answers and errors.
        verb: the first word, for example `run`.
    """

    server: str | None = None
    token: str | None = None
    data_dir: str | None = None
    output: str = "table"
    no_color: bool = False
    quiet: bool = False
    verb: str = ""

    @property
    def is_for_people(self) -> bool:
        """Whether the answer is a table, not data."""
        return self.output in ("table", "wide")

    def colored(self, stream: IO[Any]) -> bool:
        """Whether to colour what goes there: only on a terminal that can, unless somebody said no."""
        wanted = not self.no_color and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        return wanted and is_terminal(stream)

    def client(self) -> Client:
        """A blocking client of the server that is meant."""
        from styx.sync import Client

        return Client(self.server, self.token, data_dir=self.data_dir)

    def async_client(self) -> AsyncClient:
        """The same for a command that runs its own event loop."""
        from styx.client import AsyncClient

        return AsyncClient(self.server, self.token, data_dir=self.data_dir)

    def folder(self) -> Path:
        """The data folder of this machine's server."""
        from styx.locate import default_data_dir

        return Path(self.data_dir).absolute() if self.data_dir else default_data_dir().absolute()


def is_terminal(stream: IO[Any]) -> bool:
    """Whether a person sees what goes there; a closed stream is nobody."""
    try:
        return stream.isatty()
    except ValueError:
        return False


def say(settings: Settings, text: str) -> None:
    """Talk, for people: one line on stderr, unless `--quiet`."""
    if not settings.quiet:
        print(text, file=sys.stderr, flush=True)  # noqa: T201 - this is where the program talks


def global_options() -> list[click.Parameter]:
    """The options that every command takes, before its name or after it."""
    return [
        _option("--server", metavar="URL", help="Address of the server; several with commas. [STYX_SERVER_URL]"),
        _option("--token", metavar="TOKEN", help="Token for it. [STYX_TOKEN]"),
        _option("--data-dir", metavar="DIR", help="Data folder of a server on this machine. [STYX_DATA_DIR]"),
        _option("-o", "--output", type=click.Choice(FORMATS), help="How to print the answer. Default: table."),
        _option("--no-color", is_flag=True, default=None, help="Never colour. [NO_COLOR]"),
        _option("-q", "--quiet", is_flag=True, default=None, help="No talk on stderr, only errors."),
    ]


def _option(*names: str, **attributes: Any) -> click.Option:
    return click.Option(list(names), expose_value=False, callback=_store, **attributes)


def _store(context: click.Context, option: click.Parameter, value: Any) -> None:
    if value is not None and option.name:
        setattr(context.find_object(Settings), option.name, value)
