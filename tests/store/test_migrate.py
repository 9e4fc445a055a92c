"""The migrations runner: applied once, whole, in order, and never over somebody else's schema."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
import pytest

from styx_server.embedded import PostgresAddress
from styx_server.store.migrate import (
    Migration,
    MigrationChanged,
    MigrationFailed,
    MigrationFilesWrong,
    Phase,
    SchemaTooNew,
    load_migrations,
    migrate,
)
from tests.support.postgres import connected


def migration(version: int, sql: str, phase: Phase = Phase.PRE) -> Migration:
    return Migration(version=version, phase=phase, name=f"{version:04d}_{phase}_step", sql=sql)


FIRST = migration(1, "CREATE TABLE one (n int); INSERT INTO one VALUES (1);")
SECOND = migration(2, "ALTER TABLE one ADD COLUMN m int NOT NULL DEFAULT 2;")
REMOVAL = migration(3, "ALTER TABLE one DROP COLUMN n;", Phase.POST)


async def tables(connection: asyncpg.Connection) -> set[str]:
    rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return {row["tablename"] for row in rows}


async def test_missing_files_are_applied_in_order_and_named(empty_database: PostgresAddress) -> None:
    async with connected(empty_database) as connection:
        assert await migrate(connection, [FIRST, SECOND]) == ["0001_pre_step", "0002_pre_step"]
        assert await connection.fetchval("SELECT array[n, m] FROM one") == [1, 2]


async def test_a_second_run_finds_nothing_to_do(empty_database: PostgresAddress) -> None:
    async with connected(empty_database) as connection:
        await migrate(connection, [FIRST])
        assert await migrate(connection, [FIRST]) == []
        assert await migrate(connection, [FIRST, SECOND]) == ["0002_pre_step"]


async def test_of_five_racing_programs_exactly_one_applies(empty_database: PostgresAddress) -> None:
    slow = migration(2, "SELECT pg_sleep(0.2); CREATE TABLE two ();")

    async def race() -> list[str]:
        async with connected(empty_database) as connection:
            return await migrate(connection, [FIRST, slow])

    async with asyncio.TaskGroup() as group:
        racers = [group.create_task(race()) for _ in range(5)]
    assert sorted(racer.result() for racer in racers) == [[]] * 4 + [["0001_pre_step", "0002_pre_step"]]


async def test_an_index_is_built_concurrently_while_others_wait(empty_database: PostgresAddress) -> None:
    index = migration(2, "-- no-transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS one_n ON one (n);")

    async def race() -> list[str]:
        async with connected(empty_database) as connection:
            return await migrate(connection, [FIRST, index])

    async with asyncio.TaskGroup() as group:
        racers = [group.create_task(race()) for _ in range(3)]
    assert sum(len(racer.result()) for racer in racers) == 2


async def test_a_failing_file_is_rolled_back_whole(empty_database: PostgresAddress) -> None:
    broken = migration(2, "CREATE TABLE half (); SELECT no_such_function();")
    async with connected(empty_database) as connection:
        with pytest.raises(MigrationFailed, match=r"0002_pre_step.*no_such_function"):
            await migrate(connection, [FIRST, broken])
        assert await tables(connection) == {"one", "schema_migrations"}
        assert await migrate(connection, [FIRST, SECOND]) == ["0002_pre_step"]


async def test_the_lock_is_free_after_a_failure(empty_database: PostgresAddress) -> None:
    async with connected(empty_database) as first, connected(empty_database) as second:
        with pytest.raises(MigrationFailed):
            await migrate(first, [migration(1, "nonsense")])
        assert await migrate(second, [FIRST]) == ["0001_pre_step"]


async def test_an_edited_file_is_refused(empty_database: PostgresAddress) -> None:
    edited = migration(1, FIRST.sql + "\n")
    async with connected(empty_database) as connection:
        await migrate(connection, [FIRST])
        with pytest.raises(MigrationChanged, match="0001_pre_step was changed"):
            await migrate(connection, [edited])


async def test_an_older_program_is_refused_once_something_was_taken_away(empty_database: PostgresAddress) -> None:
    async with connected(empty_database) as connection:
        await migrate(connection, [FIRST, SECOND, REMOVAL])
        with pytest.raises(SchemaTooNew, match=r"0003_post_step.*newer version"):
            await migrate(connection, [FIRST, SECOND])


async def test_the_program_before_goes_on_beside_what_was_only_added(empty_database: PostgresAddress) -> None:
    async with connected(empty_database) as connection:
        await migrate(connection, [FIRST, SECOND])
        assert await migrate(connection, [FIRST]) == []


async def test_removals_wait_until_they_are_asked_for(empty_database: PostgresAddress) -> None:
    files = [FIRST, SECOND, REMOVAL]
    async with connected(empty_database) as connection:
        assert await migrate(connection, files, until=Phase.PRE) == ["0001_pre_step", "0002_pre_step"]
        assert await migrate(connection, files) == ["0003_post_step"]


async def test_a_removal_before_an_addition_does_not_wait(empty_database: PostgresAddress) -> None:
    files = [FIRST, SECOND, REMOVAL, migration(4, "CREATE TABLE four ();")]
    async with connected(empty_database) as connection:
        assert len(await migrate(connection, files, until=Phase.PRE)) == 4


async def test_this_programs_own_files_apply_to_an_empty_database(empty_database: PostgresAddress) -> None:
    async with connected(empty_database) as connection:
        applied = await migrate(connection)
        assert applied == [file.name for file in load_migrations()]
        assert await migrate(connection) == []


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["0001_pre_a.sql", "0003_pre_c.sql"], "without gaps"),
        (["0001_pre_a.sql", "0001_post_a.sql"], "without gaps"),
        (["0001_a.sql"], "is not named"),
        (["1_pre_a.sql"], "is not named"),
    ],
)
def test_files_that_are_no_sequence_are_refused(tmp_path: Path, names: list[str], why: str) -> None:
    for name in names:
        (tmp_path / name).write_text("SELECT 1")
    with pytest.raises(MigrationFilesWrong, match=why):
        load_migrations(tmp_path)


def test_a_file_says_what_it_is_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "0001_pre_tasks.sql").write_text("SELECT 1")
    (tmp_path / "0002_post_tasks.sql").write_text("-- no-transaction\nSELECT 2")
    (tmp_path / "README.md").write_text("not a migration")
    first, second = load_migrations(tmp_path)
    assert (first.version, first.phase, first.name, first.in_transaction) == (1, Phase.PRE, "0001_pre_tasks", True)
    assert (second.version, second.phase, second.in_transaction) == (2, Phase.POST, False)
