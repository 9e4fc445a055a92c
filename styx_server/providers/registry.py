"""Providers by name: makes those that a server is told to use. Nothing of the others is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from styx_server.providers.ports import Provider

NAMES: Final = ("local", "fake")
_HOMES: Final = {"local": "local", "fake": "fake-cloud"}
"""Of machines that are processes of this computer, the folder in the server's."""


def make_provider(name: str, data_dir: Path) -> Provider:
    """One provider.

    Args:
        name: one of NAMES.
        data_dir: the server's; machines of this computer have a folder in it.
    """
    match name:
        case "local":
            from styx_server.providers.local import LocalProvider

            return LocalProvider(data_dir / _HOMES[name])
        case "fake":
            from styx_server.providers.fake import FakeProvider

            return FakeProvider(data_dir / _HOMES[name])
        case _:
            raise LookupError(name)
