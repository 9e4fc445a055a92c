"""Packs: all that an agent needs, in files that new machines fetch by their digest, so that they need no registry.

Takes the agent, the SDK below it and the libraries of both from where this server was installed, and from wheels that
`styx-server bundle` fetched for other versions of Python. May not run any of it, nor know what a machine is. Next:
`shelf.py` keeps the files, `pack.py` makes them, `wheels.py` fetches.
"""

from __future__ import annotations

from styx_server.bundle import wheels
from styx_server.bundle.pack import BundleError
from styx_server.bundle.shelf import Shelf

__all__ = ["BundleError", "Shelf", "wheels"]
