"""Brings a database to this program's schema: SQL files, forward only, each applied exactly once.

Files are `migrations/NNNN_pre_name.sql` and `migrations/NNNN_post_name.sql`, numbered without gaps. A `pre` file only
adds, so the program before this one goes on working beside it; a `post` file takes away what only that program
needed. How to write one: docs/checklists/add-a-migration.md. This file decides no schema.

MigrationError
├── MigrationFilesWrong   the files of this program do not form a sequence
├── MigrationChanged      a file is not what was applied
├── SchemaTooNew          the database belongs to a newer program
└── MigrationFailed       PostgreSQL refused a file
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files
from importlib.resources.abc import Traversable

import asyncpg

from styx_server import clock

# "STYX" in ASCII. Whoever holds it migrates.
_LOCK = 0x53545958
_NAME = re.compile(r"(\d{4})_(pre|post)_([a-z0-9_]+)\.sql")
_NO_TRANSACTION = "-- no-transaction"

_MAKE_LEDGER = """
    CREATE TABLE IF NOT EXISTS schema_migrations (
        version    integer PRIMARY KEY,
        name       text NOT NULL,
        digest     text NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT now()
    )
"""
_RECORD = "INSERT INTO schema_migrations (version, name, digest) VALUES ($1, $2, $3)"


class MigrationError(Exception):
    """The database could not be brought to this program's schema."""


class MigrationFilesWrong(MigrationError):
    """The files of this program do not form a sequence."""


class MigrationChanged(MigrationError):
    """A file is not what was applied."""


class SchemaTooNew(MigrationError):
    """The database belongs to a newer program."""


class MigrationFailed(MigrationError):
    """PostgreSQL refused a file; nothing of it remains, unless it runs outside a transaction."""


class Phase(StrEnum):
    """When a file may be applied: before the new program rolls out, or after the last old one is gone."""

    PRE = "pre"
    POST = "post"


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One file."""

    version: int
    phase: Phase
    name: str
    sql: str

    @property
    def digest(self) -> str:
        """SHA-256 of the text, in hexadecimal."""
        return hashlib.sha256(self.sql.encode()).hexdigest()

    @property
    def in_transaction(self) -> bool:
        """Whether the file and its record are one transaction. If not, it is one statement that can be repeated."""
        return not self.sql.startswith(_NO_TRANSACTION)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Applied:
    version: int
    name: str
    digest: str


async def migrate(
    connection: asyncpg.Connection,
    migrations: Sequence[Migration] | None = None,
    *,
    until: Phase = Phase.POST,
) -> list[str]:
    """Applies what is missing, in order; returns the names of the files that it applied.

    Any number of programs may call this at the same time: one applies, the others wait and find nothing to do.

    Args:
        connection: of nobody else meanwhile; it keeps a session lock for the duration.
        migrations: instead of this program's own.
        until: with PRE, `post` files at the end are left for later.

    Raises:
        MigrationError: see the top of the file.
    """
    known = load_migrations() if migrations is None else list(migrations)
    async with _alone(connection):
        await connection.execute(_MAKE_LEDGER)
        applied = await _read_ledger(connection)
        _refuse_strangers(applied, known)
        missing = _missing(applied, known, until)
        for migration in missing:
            await _apply(connection, migration)
        return [migration.name for migration in missing]


def load_migrations(folder: Traversable | None = None) -> list[Migration]:
    """Reads this program's files, or those in `folder`.

    Raises:
        MigrationFilesWrong: a name is of another form, or the numbers are not 1, 2, 3, ...
    """
    place = files("styx_server.store").joinpath("migrations") if folder is None else folder
    found: list[Migration] = []
    for file in place.iterdir():
        if not file.name.endswith(".sql"):
            continue
        parts = _NAME.fullmatch(file.name)
        if parts is None:
            raise MigrationFilesWrong(f"{file.name} is not named NNNN_pre_name.sql or NNNN_post_name.sql")
        name = file.name.removesuffix(".sql")
        sql = file.read_text(encoding="utf-8")
        found.append(Migration(version=int(parts[1]), phase=Phase(parts[2]), name=name, sql=sql))
    found.sort(key=lambda migration: migration.version)
    if (versions := [migration.version for migration in found]) != list(range(1, len(found) + 1)):
        raise MigrationFilesWrong(f"migrations are numbered 1, 2, 3, ... without gaps; these are {versions}")
    return found


@asynccontextmanager
async def _alone(connection: asyncpg.Connection) -> AsyncIterator[None]:
    # Asked for again and again instead of waited for: a waiting statement holds a snapshot, and CREATE INDEX
    # CONCURRENTLY in another program's migration would wait for that snapshot in turn.
    while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK):
        await clock.sleep(0.05)
    try:
        yield
    finally:
        if not connection.is_closed():
            await connection.execute("SELECT pg_advisory_unlock($1)", _LOCK)


async def _read_ledger(connection: asyncpg.Connection) -> dict[int, _Applied]:
    rows = await connection.fetch("SELECT version, name, digest FROM schema_migrations ORDER BY version")
    return {row["version"]: _Applied(version=row["version"], name=row["name"], digest=row["digest"]) for row in rows}


def _refuse_strangers(applied: Mapping[int, _Applied], known: Sequence[Migration]) -> None:
    """The ledger must be ours, or ours and `pre` files of the program after this one, which only add."""
    ours = {migration.version: migration for migration in known}
    for version, row in applied.items():
        migration = ours.get(version)
        if migration is None:
            parts = _NAME.fullmatch(f"{row.name}.sql")
            if parts is None or parts[2] != Phase.PRE:
                raise SchemaTooNew(
                    f"the database has the migration {row.name}, which this program does not know (its last one is "
                    f"number {max(ours, default=0)}): start a newer version of Styx"
                )
        elif (row.name, row.digest) != (migration.name, migration.digest):
            raise MigrationChanged(
                f"the migration {migration.name} was changed after it was applied as {row.name}; take the change back "
                "and write a new migration for it"
            )


def _missing(applied: Mapping[int, _Applied], known: Sequence[Migration], until: Phase) -> list[Migration]:
    missing = [migration for migration in known if migration.version not in applied]
    while until is Phase.PRE and missing and missing[-1].phase is Phase.POST:
        missing.pop()
    return missing


async def _apply(connection: asyncpg.Connection, migration: Migration) -> None:
    record = (migration.version, migration.name, migration.digest)
    try:
        if migration.in_transaction:
            async with connection.transaction():
                await connection.execute(migration.sql)
                await connection.execute(_RECORD, *record)
        else:
            await connection.execute(migration.sql)
            await connection.execute(_RECORD, *record)
    except asyncpg.PostgresError as error:
        fate = "was rolled back" if migration.in_transaction else "may have left something behind; see its comments"
        raise MigrationFailed(f"the migration {migration.name} failed and {fate}: {error}") from error
