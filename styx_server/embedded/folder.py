"""The folder of an embedded PostgreSQL: its paths, its lock, its password, its log. Starts nothing.

DIR/postgres/owner.lock     held for life by the one owner; its pid is inside
             data/          the cluster; `data.new.*` while it is being made
             password       of the user styx, readable by its owner alone
             run/           the socket, unless the path is too long for one
             postgres.log   what the server says; `.1` is the one before
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
import stat
from pathlib import Path
from typing import IO

from styx_server.embedded.errors import INSTEAD, AlreadyOwned, FolderUnusable

LOG_BYTES_MAX = 10 * 1024 * 1024
_UNFINISHED = "data.new."
_SOCKET_PATH_MAX = 107
_SOCKET_NAME = "/.s.PGSQL.5432.lock"


class Folder:
    """One embedded PostgreSQL's files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = root / "data"
        # A name for this start alone: the programs of a killed one may still be tidying up their own.
        self.unfinished = root / f"{_UNFINISHED}{secrets.token_hex(4)}"
        self.password_file = root / "password"
        self.log_file = root / "postgres.log"
        self._lock: int | None = None

    def make(self) -> None:
        """Makes the folder, for its owner's eyes only.

        Raises:
            FolderUnusable: it cannot be made.
        """
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.root.chmod(0o700)
        except OSError as error:
            raise FolderUnusable(
                f"{self.root} cannot be used for PostgreSQL: {error.strerror}; choose another data folder with "
                f"--data-dir, {INSTEAD}."
            ) from error

    @property
    def taken(self) -> bool:
        """Whether this object is the owner."""
        return self._lock is not None

    def take(self) -> None:
        """Becomes the owner, until `release` or the end of this process.

        Raises:
            AlreadyOwned: somebody else is.
        """
        lock = os.open(self.root / "owner.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            text = os.pread(lock, 32, 0).decode(errors="replace").strip()
            os.close(lock)
            pid = int(text) if text.isdigit() else None
            raise AlreadyOwned(
                f"{self.root} is already in use by the process {pid or '(unknown)'}; stop that one, or choose another "
                "data folder with --data-dir.",
                pid=pid,
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        self._lock = lock

    def release(self) -> None:
        """Lets others become the owner."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def made_by(self) -> int | None:
        """Major version of the cluster, or None when there is none yet."""
        try:
            return int((self.data / "PG_VERSION").read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise FolderUnusable(f"{self.data} does not hold a PostgreSQL cluster: {error}.") from error

    def begin_cluster(self, owner: tuple[int, int]) -> None:
        """Clears what an interrupted start left, and makes a new password."""
        for left in self.root.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(left, ignore_errors=True)
        self.password_file.unlink(missing_ok=True)
        file = os.open(self.password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(file, secrets.token_urlsafe(24).encode())
            os.fsync(file)
            if os.geteuid() == 0:
                os.fchown(file, *owner)
        finally:
            os.close(file)

    def finish_cluster(self) -> None:
        """Gives the new cluster its name, so that it outlives a power cut."""
        self.unfinished.rename(self.data)
        place = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(place)
        finally:
            os.close(place)

    def password(self) -> str:
        """The password of the user styx.

        Raises:
            FolderUnusable: it is gone.
        """
        try:
            return self.password_file.read_text()
        except OSError as error:
            raise FolderUnusable(
                f"the password of the cluster in {self.data} cannot be read: {error.strerror} "
                f"({self.password_file}). Restore that file from a backup."
            ) from error

    def open_log(self, owner: tuple[int, int]) -> IO[bytes]:
        """The log to append to. One that has grown large is put aside first."""
        if self.log_file.exists() and self.log_file.stat().st_size > LOG_BYTES_MAX:
            self.log_file.replace(self.log_file.with_suffix(".log.1"))
        log = self.log_file.open("ab")
        self.log_file.chmod(0o600)
        if os.geteuid() == 0:
            os.fchown(log.fileno(), *owner)
        return log

    def trim_log(self) -> None:
        """Empties the log when it has grown large while the server runs; the server writes by appending."""
        if self.log_file.exists() and self.log_file.stat().st_size > LOG_BYTES_MAX:
            os.truncate(self.log_file, 0)

    def log_tail(self) -> str:
        """The last lines of the log, for an error message."""
        try:
            return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-5:])
        except OSError:
            return "(it has no log)"

    def make_socket_folder(self, owner: tuple[int, int]) -> Path:
        """A private folder for the socket; elsewhere when the path is longer than a socket's may be.

        Raises:
            FolderUnusable: somebody else made a folder of that name.
        """
        place = self._socket_folder()
        place.mkdir(mode=0o700, exist_ok=True)
        status = place.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid not in (os.geteuid(), owner[0]):
            raise FolderUnusable(f"{place} belongs to somebody else; remove it, or choose a shorter --data-dir.")
        place.chmod(0o700)
        if os.geteuid() == 0:
            os.chown(place, *owner)
        return place

    def remove_socket_folder(self) -> None:
        """Leaves nothing outside the data folder."""
        place = self._socket_folder()
        if place.parent != self.root and place.is_dir() and not place.is_symlink():
            shutil.rmtree(place, ignore_errors=True)

    def _socket_folder(self) -> Path:
        place = self.root / "run"
        if len(os.fsencode(f"{place}{_SOCKET_NAME}")) < _SOCKET_PATH_MAX:
            return place
        digest = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:16]
        # A fixed place, not the caller's temporary folder, which may be as long as the path that did not fit.
        return Path(f"/tmp/styx-{os.geteuid()}-{digest}")  # noqa: S108 - private, and its owner is checked
