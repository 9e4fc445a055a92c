"""What goes into a bundle, and how it becomes an archive whose bytes depend on nothing else.

Blocks on files for seconds: call it in a thread. Next: `shelf.py`, which does.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from importlib import metadata, util
from pathlib import Path, PurePosixPath
from typing import IO, Final

PROJECT: Final = "styx-control"
_PACKAGES: Final = ("styx", "styx_agent")
_NOT_THE_AGENTS: Final = frozenset({"click"})
"""Libraries of the command line alone."""
_LEFT_OUT: Final = re.compile(
    r"(^|/)__pycache__/|\.(pyc|pyi|pyx|pxd|proto)$"
    # Where and by whom it was installed is nobody's business, and other bytes on every server.
    r"|\.dist-info/(RECORD|INSTALLER|REQUESTED|WHEEL|direct_url\.json|entry_points\.txt)$"
    # A second, larger copy of zstandard, for other kinds of Python.
    r"|^zstandard/_cffi\."
)
_LEVEL: Final = 6

Entries = Mapping[str, Callable[[], bytes]]
"""Names in the archive, and how to read what they hold."""


class BundleError(Exception):
    """The agent cannot be packed; the message says what is missing and where it comes from."""


def requirements() -> tuple[str, ...]:
    """The libraries of an agent, each with the version that is installed here, as pip reads them: `grpcio==1.85.1`.

    Raises:
        BundleError: one of them is not installed in the usual way.
    """
    return tuple(f"{name}=={_distribution(name).version}" for name in _libraries())


def own_entries() -> Entries:
    """The agent and the SDK, which are the same for every Python.

    Raises:
        BundleError: they are not installed here.
    """
    found: dict[str, Callable[[], bytes]] = {}
    for package in _PACKAGES:
        spec = util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise BundleError(f"the package {package} is not installed beside the server; install {PROJECT} anew")
        root = Path(spec.submodule_search_locations[0])
        for path in root.rglob("*.py"):
            found[f"{package}/{path.relative_to(root).as_posix()}"] = path.read_bytes
    project = _distribution(PROJECT)
    # By this an agent knows its own version.
    text = (project.read_text("METADATA") or "").encode()
    found[f"{PROJECT.replace('-', '_')}-{project.version}.dist-info/METADATA"] = lambda: text
    return found


def installed_entries() -> Entries:
    """The libraries of an agent, as they are installed here.

    Raises:
        BundleError: one of them is not installed in the usual way.
    """
    found: dict[str, Callable[[], bytes]] = {}
    for name in _libraries():
        for file in _distribution(name).files or ():
            if _wanted(file):
                found[file.as_posix()] = Path(str(file.locate())).read_bytes
    return found


def wheel_entries(wheels: Path) -> Entries:
    """The same from wheels in a folder."""
    found: dict[str, Callable[[], bytes]] = {}
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if not name.endswith("/")]
        for name in names:
            if _wanted(PurePosixPath(name)):
                found[name] = partial(_member, wheel, name)
    return found


def fingerprint(entries: Entries) -> str:
    """Digest of names and contents; cheap only for what is small."""
    digest = hashlib.sha256()
    for name in sorted(entries):
        content = entries[name]()
        digest.update(f"{len(name)} {name} {len(content)} ".encode())
        digest.update(content)
    return digest.hexdigest()


def write_archive(entries: Entries, file: IO[bytes]) -> None:
    """A tar.gz of these files: sorted, without times and owners."""
    with (
        gzip.GzipFile(filename="", mode="wb", compresslevel=_LEVEL, fileobj=file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name in sorted(entries):
            content = entries[name]()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.mode = 0o644
            archive.addfile(member, io.BytesIO(content))


def _libraries() -> list[str]:
    """Names of distributions: what the project requires without any extra, and what these require in turn."""
    found: dict[str, None] = {}
    waiting = sorted(_required_by(PROJECT) - _NOT_THE_AGENTS)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = None
            waiting += sorted(_required_by(name))
    return sorted(found)


def _required_by(name: str) -> set[str]:
    """Plain requirements of an installed distribution that are installed too; a marker may have ruled others out."""
    words = [text.partition(";") for text in _distribution(name).requires or ()]
    names = {_canonical(word) for word, _, marker in words if "extra" not in marker}
    return {each for each in names if name == PROJECT or _is_installed(each)}


def _canonical(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement.strip())
    assert found is not None, requirement
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _distribution(name: str) -> metadata.Distribution:
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        raise BundleError(f"{name} is not installed beside the server; install {PROJECT} anew, with pip") from None
    if found.files is None:
        raise BundleError(f"{name} was installed without a list of its files; install {PROJECT} with pip")
    return found


def _wanted(path: PurePosixPath) -> bool:
    return ".." not in path.parts and not path.is_absolute() and not _LEFT_OUT.search(path.as_posix())


def _member(wheel: Path, name: str) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(name)
