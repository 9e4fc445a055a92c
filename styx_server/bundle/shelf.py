"""The folder of bundles, each file named by the SHA-256 of what is in it.

    bundles/SHA256              an archive, or a list of archives; never changed, and kept until the next but one, for
                                machines that are on their way
    bundles/current.json        which list is of what is installed now, so that it is not packed again at each start
    bundles/wheels/3.12-x86_64  libraries for another Python, which `styx-server bundle` fetched

A machine is told the digest of the list. It fetches the list, finds its own Python and processor there, and fetches
that archive; it believes neither before it has checked the digest, so anybody may serve them to anybody.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from styx_server.bundle.pack import (
    BundleError,
    Entries,
    fingerprint,
    installed_entries,
    own_entries,
    requirements,
    wheel_entries,
    write_archive,
)

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_FORMAT: Final = 1
"""Raised when the same files are to be packed in another way."""


class Shelf:
    """The bundles of one data folder.

    Args:
        data_dir: the server's.
    """

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / "bundles"
        self._lock = threading.Lock()
        self._digest = ""

    @property
    def wheels(self) -> Path:
        """Where wheels for other Pythons are, a folder for each."""
        return self._folder / "wheels"

    def digest(self) -> str:
        """Of the list of bundles of what is installed here. Packs them the first time, which takes seconds.

        Blocks: call it in a thread.

        Raises:
            BundleError: the agent cannot be packed.
            OSError: the folder cannot be written.
        """
        with self._lock:
            # `styx-server bundle` may have packed anew meanwhile.
            if not self._digest or self._kept().get("list") != self._digest:
                self._digest = self._current() or self._pack()
            return self._digest

    def find(self, digest: str) -> Path | None:
        """The file with this digest, if there is one."""
        # What comes from a stranger names a file only when it can name nothing else.
        path = self._folder / digest if _DIGEST.fullmatch(digest) else None
        return path if path is not None and path.is_file() else None

    def variants(self) -> tuple[str, ...]:
        """For which Python and processor there is a bundle: `3.11-x86_64`.

        Raises:
            BundleError: the agent cannot be packed.
        """
        return tuple(sorted(self._sources()))

    def _sources(self) -> Mapping[str, Path | None]:
        """Where the libraries of each variant are; None: here, where this server runs."""
        found: dict[str, Path | None] = {}
        if self.wheels.is_dir():
            found = {folder.name: folder for folder in sorted(self.wheels.iterdir()) if any(folder.glob("*.whl"))}
        if sys.platform == "linux":
            found["{}.{}-{}".format(*sys.version_info[:2], platform.machine())] = None
        if not found:
            raise BundleError(
                "rented machines run Linux and this server does not, so its libraries are of no use there; "
                "fetch some with `styx-server bundle --python 3.11,3.12,3.13`"
            )
        return found

    def _key(self) -> str:
        """What the list depends on, without reading the large files."""
        wheels = [
            str(path.relative_to(self.wheels))
            for folder in self._sources().values()
            if folder is not None
            for path in sorted(folder.glob("*.whl"))
        ]
        known = [_FORMAT, sys.version, platform.machine(), *requirements(), *wheels, fingerprint(own_entries())]
        return hashlib.sha256(json.dumps(known).encode()).hexdigest()

    def _current(self) -> str:
        listed = self._listed()
        whole = listed and all(self.find(name) for name in listed)
        return listed[0] if whole and self._kept().get("key") == self._key() else ""

    def _pack(self) -> str:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        own = own_entries()
        bundles = {}
        for variant, wheels in sorted(self._sources().items()):
            libraries = installed_entries() if wheels is None else wheel_entries(wheels)
            bundles[variant] = self._put({**libraries, **own})
        before = self._listed()
        digest = self._put_bytes(json.dumps({"bundles": bundles}, indent=1, sort_keys=True).encode())
        self._replace("current.json", json.dumps({"key": self._key(), "list": digest}).encode())
        for path in self._folder.iterdir():
            if _DIGEST.fullmatch(path.name) and path.name not in {*before, *self._listed()}:
                path.unlink()
        return digest

    def _listed(self) -> list[str]:
        """The current list and its archives, as far as there are any."""
        try:
            digest = str(self._kept()["list"])
            listed = json.loads((self._folder / digest).read_bytes())
            return [digest, *(str(bundle["sha256"]) for bundle in listed["bundles"].values())]
        except (OSError, ValueError, LookupError, TypeError):
            return []

    def _kept(self) -> dict[str, Any]:
        try:
            kept: dict[str, Any] = json.loads((self._folder / "current.json").read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return kept

    def _put(self, entries: Entries) -> dict[str, Any]:
        # Written beside its place, because its name is known only at the end.
        with tempfile.NamedTemporaryFile(dir=self._folder, prefix="new-", delete=False) as file:
            try:
                write_archive(entries, file)
                file.flush()
                os.fsync(file.fileno())
                with Path(file.name).open("rb") as packed:
                    digest = hashlib.file_digest(packed, "sha256").hexdigest()
                size = Path(file.name).stat().st_size
                Path(file.name).rename(self._folder / digest)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
        return {"sha256": digest, "bytes": size}

    def _put_bytes(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        self._replace(digest, content)
        return digest

    def _replace(self, name: str, content: bytes) -> None:
        fresh = self._folder / f"{name}.new"
        fresh.write_bytes(content)
        fresh.rename(self._folder / name)
