"""Bundles: the same bytes wherever they are packed, all that an agent needs and nothing else, packed once."""

from __future__ import annotations

import io
import json
import os
import platform
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from styx_server.bundle import BundleError, Shelf, wheels
from styx_server.bundle.pack import requirements, wheel_entries, write_archive

MINE = "{}.{}-{}".format(*sys.version_info[:2], platform.machine())


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """One with the bundle of what is installed here."""
    found = Shelf(tmp_path_factory.mktemp("shelf"))
    found.digest()
    return found


def archive(shelf: Shelf, variant: str = MINE) -> Path:
    """The archive for a variant."""
    listed = shelf.find(shelf.digest())
    assert listed is not None
    bundle = json.loads(listed.read_text())["bundles"][variant]
    path = shelf.find(bundle["sha256"])
    assert path is not None
    assert path.stat().st_size == bundle["bytes"]
    return path


def test_an_agent_starts_from_the_bundle_alone(shelf: Shelf, tmp_path: Path) -> None:
    with tarfile.open(archive(shelf)) as packed:
        # The Python of Debian 12 has no filters, and later ones warn when none is named.
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        packed.extractall(tmp_path, **safely)  # type: ignore[arg-type] # noqa: S202 - we packed it ourselves
    words = [str(Path(sys.executable).resolve()), "-S", "-P", "-c"]
    asks = "import styx_agent.link, styx_agent.session, sys; print(styx_agent.link._version(), *sys.modules)"
    done = subprocess.run(
        [*words, asks], env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    version, *modules = done.stdout.split()
    assert version != "0+unknown"
    assert {"grpc", "google.protobuf", "structlog", "styx"} <= set(modules)


def test_it_holds_nothing_of_the_server_and_nothing_of_this_computer(shelf: Shelf) -> None:
    with tarfile.open(archive(shelf)) as packed:
        members = packed.getmembers()
    names = [member.name for member in members]
    assert names == sorted(names)
    assert {name for name in names if name.startswith(("styx_server", "styx_cli", "click", "asyncpg", "boto"))} == set()
    assert [name for name in names if name.endswith((".pyc", "RECORD", "direct_url.json"))] == []
    assert {(member.mtime, member.uid, member.uname, member.mode) for member in members} == {(0, 0, "", 0o644)}


def test_the_same_is_packed_to_the_same_bytes(shelf: Shelf, tmp_path: Path) -> None:
    assert Shelf(tmp_path).digest() == shelf.digest()


def test_what_is_packed_is_not_packed_again(shelf: Shelf) -> None:
    before = archive(shelf).stat().st_ino
    digest = Shelf(archive(shelf).parent.parent).digest()
    assert digest == shelf.digest()
    assert archive(shelf).stat().st_ino == before


def test_what_was_lost_is_packed_again(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    digest = shelf.digest()
    archive(shelf).unlink()
    assert Shelf(tmp_path).digest() == digest
    assert archive(shelf).exists()


@pytest.mark.parametrize("name", ["current.json", "../server.log", "A" * 64, "", "0" * 63, "0" * 64, "wheels"])
def test_only_a_digest_finds_a_file(shelf: Shelf, name: str) -> None:
    assert shelf.find(name) is None


def wheel(folder: Path, name: str, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-1-py3-none-any.whl", "w") as packed:
        for path, text in files.items():
            packed.writestr(path.replace("__", "/") + ".py", text)


def test_wheels_of_another_python_make_a_bundle_of_their_own(shelf: Shelf, tmp_path: Path) -> None:
    mixed = Shelf(tmp_path)
    plain = mixed.digest()
    wheel(mixed.wheels / "3.99-aarch64", "thing", thing__one="1")
    again = Shelf(tmp_path)
    assert again.variants() == tuple(sorted(("3.99-aarch64", MINE)))
    assert again.digest() != plain
    with tarfile.open(archive(again, "3.99-aarch64")) as packed:
        names = packed.getnames()
    assert "thing/one.py" in names
    assert "styx_agent/app.py" in names
    # Machines that were told of the list before are on their way.
    assert again.find(plain) is not None
    assert archive(again) == tmp_path / "bundles" / archive(shelf).name


def test_a_running_server_takes_what_was_packed_beside_it(tmp_path: Path) -> None:
    running = Shelf(tmp_path)
    plain = running.digest()
    wheel(running.wheels / "3.99-aarch64", "thing", thing__one="1")
    packed = Shelf(tmp_path).digest()
    assert running.digest() == packed != plain


def test_what_no_list_names_any_more_is_removed(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    first = shelf.digest()
    for version in ("3.98", "3.99"):
        wheel(shelf.wheels / f"{version}-aarch64", "thing", thing__one=version)
        assert Shelf(tmp_path).digest() != first
    assert shelf.find(first) is None
    assert archive(Shelf(tmp_path)).exists()


def test_only_what_an_agent_runs_is_taken_from_a_wheel(tmp_path: Path) -> None:
    wheel(tmp_path, "thing", thing__one="1")
    with zipfile.ZipFile(tmp_path / "thing-1-py3-none-any.whl", "a") as packed:
        for name in ("thing/one.pyi", "thing/one.proto", "thing-1.dist-info/RECORD", "thing-1.dist-info/METADATA"):
            packed.writestr(name, "")
        packed.writestr("../outside.py", "")
    file = io.BytesIO()
    write_archive(wheel_entries(tmp_path), file)
    with tarfile.open(fileobj=io.BytesIO(file.getvalue())) as archive:
        assert archive.getnames() == ["thing-1.dist-info/METADATA", "thing/one.py"]


def test_libraries_are_those_of_the_agent_with_their_versions() -> None:
    names = {name.partition("==")[0] for name in requirements()}
    assert {"grpcio", "protobuf", "structlog", "zstandard"} <= names
    assert names.isdisjoint({"click", "asyncpg", "boto3", "pytest"})
    assert all(name.partition("==")[2] for name in requirements())


@pytest.mark.parametrize(("python", "arch"), [("2.7", "x86_64"), ("3.10", "x86_64"), ("3.12", "riscv")])
def test_wheels_that_no_agent_runs_with_are_not_fetched(tmp_path: Path, python: str, arch: str) -> None:
    with pytest.raises(BundleError, match=r"3\.11 or newer|x86_64, arm64"):
        wheels.fetch(tmp_path / "wheels", python, arch)


def bundle_command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "styx_server", "bundle", "--data-dir", str(folder), *words],
        env={"PATH": os.environ["PATH"], "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_packs_and_says_for_what(tmp_path: Path) -> None:
    done = bundle_command(tmp_path)
    assert done.stdout.split() == [Shelf(tmp_path).digest(), MINE]


def test_the_command_explains_what_it_cannot_do(tmp_path: Path) -> None:
    done = bundle_command(tmp_path, "--python", "3.9")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: Python is a version such as 3.12, and 3.11 or newer, not '3.9'\n"


def test_libraries_for_another_processor_are_fetched_by_pip(tmp_path: Path) -> None:
    done = bundle_command(tmp_path, "--python", "3.12", "--arch", "arm64")
    if done.returncode != 0 and "cannot be fetched" in done.stderr:
        pytest.skip(f"no package registry can be reached from here: {done.stderr[:200]}")
    assert done.stdout.split() == [Shelf(tmp_path).digest(), *sorted([MINE, "3.12-aarch64"])]
    with tarfile.open(archive(Shelf(tmp_path), "3.12-aarch64")) as packed:
        assert [name for name in packed.getnames() if "cygrpc" in name and "aarch64" in name]
