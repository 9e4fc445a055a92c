"""What can go wrong with the embedded PostgreSQL. Each message names the thing, the rule and the remedy.

EmbeddedPostgresError
├── BinariesMissing     no PostgreSQL programs that fit
├── AlreadyOwned        another server uses the same data folder
├── FolderUnusable      the data folder cannot hold this cluster
├── NoUsableIdentity    PostgreSQL refuses root, and no other identity is to be had
└── StartFailed         a PostgreSQL program ended with an error, or did not become ready

All of them give up: none goes away by trying the same again.
"""

from __future__ import annotations

INSTEAD = "or name a database of your own with --database-url or STYX_DATABASE_URL"


class EmbeddedPostgresError(Exception):
    """The embedded PostgreSQL cannot run."""


class BinariesMissing(EmbeddedPostgresError):
    """No PostgreSQL programs that fit were found."""


class AlreadyOwned(EmbeddedPostgresError):
    """Another process holds the folder.

    Attributes:
        pid: that process, or None when it did not say.
    """

    def __init__(self, message: str, *, pid: int | None) -> None:
        super().__init__(message)
        self.pid = pid


class FolderUnusable(EmbeddedPostgresError):
    """The data folder cannot hold this cluster."""


class NoUsableIdentity(EmbeddedPostgresError):
    """There is no identity under which PostgreSQL would agree to run."""


class StartFailed(EmbeddedPostgresError):
    """A PostgreSQL program ended with an error, or did not become ready in time."""
