"""The embedded PostgreSQL in this process: what it keeps, what it refuses, what it survives."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from styx_server.embedded import (
    BinariesMissing,
    EmbeddedPostgres,
    FolderUnusable,
    PostgresAddress,
    StartFailed,
)
from styx_server.embedded.binaries import find_binaries
from styx_server.embedded.folder import LOG_BYTES_MAX
from styx_server.embedded.identity import choose_identity
from tests.support.postgres import connected
from tests.support.until import soon


@asynccontextmanager
async def running(data_dir: Path) -> AsyncIterator[EmbeddedPostgres]:
    postgres = EmbeddedPostgres(data_dir, fsync=False)
    await postgres.start()
    try:
        yield postgres
    finally:
        await postgres.stop()


def process_exists(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def mode(path: Path | str) -> int:
    return Path(path).stat().st_mode & 0o777


async def ask(address: PostgresAddress, question: str) -> object:
    async with connected(address) as connection:
        return await connection.fetchval(question)


def spawn(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with PostgreSQL."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


async def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path) as postgres, connected(postgres.dsn) as connection:
        await connection.execute("CREATE TABLE kept AS SELECT 42 AS n")
    async with running(tmp_path) as postgres:
        assert await ask(postgres.dsn, "SELECT n FROM kept") == 42


async def test_after_a_stop_no_process_is_left_and_the_folder_is_free(tmp_path: Path) -> None:
    async with running(tmp_path) as postgres:
        pid = postgres.pid
        assert pid is not None
    assert postgres.pid is None
    assert not process_exists(pid)
    await postgres.stop()
    async with running(tmp_path):
        pass


async def test_the_address_is_unknown_until_the_server_runs(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="start the embedded"):
        _ = EmbeddedPostgres(tmp_path).dsn


async def test_an_answer_that_was_given_survives_a_power_cut_unless_told_otherwise(tmp_path: Path) -> None:
    careful = EmbeddedPostgres(tmp_path, extra_settings={"work_mem": "5MB"})
    await careful.start()
    try:
        for name, value in {
            "fsync": "on",
            "synchronous_commit": "on",
            "full_page_writes": "on",
            "max_connections": "100",
            "shared_buffers": "128MB",
            "listen_addresses": "",
            "work_mem": "5MB",
            "TimeZone": "UTC",
        }.items():
            assert await ask(careful.dsn, f"SHOW {name}") == value, name
    finally:
        await careful.stop()
    async with running(tmp_path) as careless:
        assert await ask(careless.dsn, "SHOW fsync") == "off"


async def test_text_sorts_by_code_point_on_every_machine(tmp_path: Path) -> None:
    async with running(tmp_path) as postgres:
        words = await ask(postgres.dsn, "SELECT string_agg(w, ' ' ORDER BY w) FROM unnest('{b,a,B,ä,A}'::text[]) AS w")
        assert words == "A B a b ä"


async def test_the_address_works_as_a_url_too(tmp_path: Path) -> None:
    async with running(tmp_path) as postgres:
        other = postgres.dsn.with_database("template1")
        assert other.url.startswith("postgresql://styx:")
        assert await ask(other, "SELECT current_database()") == "template1"
        assert other.password not in repr(other)


async def test_nobody_else_can_reach_it(tmp_path: Path) -> None:
    async with running(tmp_path) as postgres:
        assert mode(postgres.dsn.host) == 0o700
        for name in ("password", "postgres.log", "owner.lock"):
            assert mode(tmp_path / "postgres" / name) == 0o600, name
        stranger = {**postgres.dsn.arguments(), "password": "wrong"}
        wrong = PostgresAddress(**stranger)  # type: ignore[arg-type]
        with pytest.raises(Exception, match="password authentication failed"):
            await ask(wrong, "SELECT 1")


async def test_a_path_too_long_for_a_socket_works_and_leaves_nothing_outside(tmp_path: Path) -> None:
    deep = tmp_path / ("long" * 30) / ("longer" * 20)
    async with running(deep) as postgres:
        socket_folder = Path(postgres.dsn.host)
        assert len(str(socket_folder)) < 80
        assert await ask(postgres.dsn, "SELECT 1") == 1
    assert not list(socket_folder.parent.glob(socket_folder.name))


async def test_a_folder_that_is_a_link_works(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    async with running(tmp_path / "link") as postgres:
        assert await ask(postgres.dsn, "SELECT 1") == 1


async def test_what_an_interrupted_first_start_left_is_no_obstacle(tmp_path: Path) -> None:
    half = tmp_path / "postgres" / "data.new.1"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    (tmp_path / "postgres" / "password").write_text("of the one that never came to be")
    async with running(tmp_path) as postgres:
        assert await ask(postgres.dsn, "SELECT 1") == 1
    assert not half.exists()


async def test_a_leftover_server_is_ended_first(tmp_path: Path) -> None:
    async with running(tmp_path) as postgres, connected(postgres.dsn) as connection:
        await connection.execute("CREATE TABLE kept AS SELECT 42 AS n")
    root = tmp_path / "postgres"
    binaries = find_binaries()
    identity = await choose_identity(root, binaries)
    flags = ["-D", str(root / "data"), "-k", str(root / "run"), "-c", "listen_addresses="]
    with spawn([*identity.prefix, binaries.postgres, *flags]) as leftover:
        pid_file = root / "data" / "postmaster.pid"
        await soon(lambda: pid_file.exists() and "ready" in pid_file.read_text(), "the leftover runs")
        async with running(tmp_path) as postgres:
            assert postgres.pid != leftover.pid
            assert await ask(postgres.dsn, "SELECT n FROM kept") == 42
        assert leftover.wait(timeout=10) == 0


async def test_a_pid_file_whose_number_belongs_to_somebody_else_now_is_no_obstacle(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    async with running(tmp_path):
        pass
    lines = [str(sleeper.pid), str(tmp_path / "postgres" / "data"), "0", "5432", "", "", "", "ready", ""]
    (tmp_path / "postgres" / "data" / "postmaster.pid").write_text("\n".join(lines))
    async with running(tmp_path) as postgres:
        assert await ask(postgres.dsn, "SELECT 1") == 1
    assert sleeper.poll() is None


async def test_a_server_that_was_killed_comes_back_with_its_data(tmp_path: Path) -> None:
    async with running(tmp_path) as postgres, asyncio.TaskGroup() as group:
        keeper = group.create_task(postgres.keep_running())
        async with connected(postgres.dsn) as connection:
            await connection.execute("CREATE TABLE kept AS SELECT 42 AS n")
        first = postgres.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await soon(lambda: postgres.pid not in (None, first) and ready(tmp_path), "a new server is ready")
        assert await ask(postgres.dsn, "SELECT n FROM kept") == 42
        keeper.cancel()


def ready(data_dir: Path) -> bool:
    pid_file = data_dir / "postgres" / "data" / "postmaster.pid"
    return pid_file.exists() and "ready" in pid_file.read_text()


async def test_a_log_that_has_grown_large_is_put_aside(tmp_path: Path) -> None:
    log = tmp_path / "postgres" / "postgres.log"
    log.parent.mkdir()
    log.write_bytes(b"x" * (LOG_BYTES_MAX + 1))
    async with running(tmp_path):
        assert log.stat().st_size < 10_000
    assert (tmp_path / "postgres" / "postgres.log.1").stat().st_size == LOG_BYTES_MAX + 1


async def test_a_setting_that_postgresql_refuses_is_reported_with_its_words(tmp_path: Path) -> None:
    wrong = EmbeddedPostgres(tmp_path, fsync=False, extra_settings={"no_such_setting": "1"})
    with pytest.raises(StartFailed, match='unrecognized configuration parameter "no_such_setting"'):
        await wrong.start()
    async with running(tmp_path):
        pass


async def test_a_cluster_of_a_release_without_programs_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path):
        pass
    (tmp_path / "postgres" / "data" / "PG_VERSION").write_text("15\n")
    with pytest.raises(BinariesMissing, match="PostgreSQL 15, which made this data folder"):
        await EmbeddedPostgres(tmp_path, binaries=find_binaries().folder).start()


async def test_missing_programs_are_named_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(BinariesMissing, match="STYX_DATABASE_URL"):
        await EmbeddedPostgres(tmp_path, binaries=tmp_path / "nothing").start()


async def test_a_lost_password_is_named(tmp_path: Path) -> None:
    async with running(tmp_path):
        pass
    (tmp_path / "postgres" / "password").unlink()
    with pytest.raises(FolderUnusable, match="password of the cluster"):
        await EmbeddedPostgres(tmp_path, fsync=False).start()


async def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "postgres").write_text("not a folder")
    with pytest.raises(FolderUnusable, match="choose another data folder"):
        await EmbeddedPostgres(tmp_path, fsync=False).start()


async def test_only_the_main_thread_may_start_it(tmp_path: Path) -> None:
    def start() -> None:
        asyncio.run(EmbeddedPostgres(tmp_path, fsync=False).start())

    with pytest.raises(RuntimeError, match="only the main thread"):
        await asyncio.to_thread(start)
