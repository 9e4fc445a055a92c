"""The data folder of a local Styx: where things are in it, and who holds it.

One `styx up` at a time holds the lock of a folder for as long as it lives, so the lock is the truth about whether one
runs; `up.json` only says more about it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from styx.errors import InvalidRequest
from styx.names import agent_id
from styx_cli.local.processes import holder_of_lock


@dataclass(frozen=True, slots=True, kw_only=True)
class UpRecord:
    """What a running `styx up` says about itself.

    Attributes:
        pid: its process.
        start_ticks: when that process started, so that a reused pid is not taken for it.
        ready: whether everything is up.
        http: address of the server, once it is known.
        grpc: the same, for gRPC.
        agents: how many agents it keeps.
    """

    pid: int
    start_ticks: int
    ready: bool = False
    http: str = ""
    grpc: str = ""
    agents: int = 0


class Busy(Exception):
    """Somebody else holds the folder.

    Attributes:
        pid: who, when that can be seen.
    """

    def __init__(self, pid: int | None) -> None:
        super().__init__(pid)
        self.pid = pid


class LocalFolder:
    """Paths below the data folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.logs = root / "logs"
        self.lock = root / "up.lock"
        self.record = root / "up.json"

    def agent(self, number: int) -> Path:
        """The data folder of one agent, counted from 1."""
        return self.root / "agents" / str(number)

    def server(self, number: int) -> Path:
        """The data folder of one server, counted from 1; the first has the whole folder."""
        return self.root if number == 1 else self.root / "replicas" / str(number)

    def log(self, name: str) -> Path:
        """The log of a child, or of `styx up` itself."""
        return self.logs / f"{name}.log"

    def prepare(self) -> None:
        """Makes the folders, for this user alone."""
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.logs.mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            raise click.ClickException(
                f"the data folder {self.root} cannot be made ({error.strerror}); choose another with --data-dir"
            ) from None

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Holds the folder.

        Raises:
            Busy: another `styx up` does.
        """
        descriptor = os.open(self.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise Busy(holder_of_lock(self.lock)) from None
        try:
            yield
        finally:
            os.close(descriptor)

    def is_held(self) -> bool:
        """Whether a `styx up` runs here now."""
        if not self.lock.exists():
            return False
        try:
            with self.held():
                return False
        except Busy:
            return True

    def write_record(self, record: UpRecord) -> None:
        """Says something new about this `styx up`; readers see the old words or the new ones, never half."""
        draft = self.record.with_suffix(".json.new")
        draft.write_text(json.dumps(asdict(record)))
        draft.replace(self.record)

    def read_record(self) -> UpRecord | None:
        """What the latest `styx up` said; None when there is nothing that can be read."""
        try:
            return UpRecord(**json.loads(self.record.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def agent_id(self, number: int) -> str | None:
        """The id of an agent that has joined."""
        try:
            return agent_id(json.loads((self.agent(number) / "identity.json").read_text())["agent_id"])
        except (OSError, ValueError, TypeError, KeyError, InvalidRequest):
            return None


def tail(path: Path, lines: int = 15) -> list[str]:
    """The last lines of a log; none when it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 65536))
            return file.read().decode("utf-8", "replace").splitlines()[-lines:]
    except OSError:
        return []
