"""The folder of one machine: what was rented, how it is doing, how its agent is started, what is asked of it.

Files are replaced as a whole, so a reader never sees half of one. `status.json` has one writer: whoever holds the
lock, which is the machine's keeper for as long as it lives. Next: `room.py`, which makes these folders.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from styx_server.core.machines.instance import MachineState
from styx_server.core.machines.offer import Place


class Unreadable(Exception):
    """A file of a machine is not what was written. Nothing is guessed from it."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} cannot be understood; stop what runs there and move {path.parent} away")


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What was rented. Never changes. Times are seconds since 1970."""

    key: str
    place: Place
    machine_type: str
    spot: bool
    tags: Mapping[str, str]
    create_time: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How a machine is doing.

    Attributes:
        boot_id: of the start of this computer during which it was written.
        keeper_pid: 0 until there is one.
        keeper_ticks: when that process started, so that another with the same number is not taken for it.
    """

    state: MachineState
    reason: str = ""
    boot_id: str = ""
    keeper_pid: int = 0
    keeper_ticks: int = 0
    end_time: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How the keeper runs a machine. Holds the join token, and is removed when the machine ends.

    Attributes:
        argv: the agent's command line.
        env: its whole environment.
        start_seconds: before the agent is started; a machine takes its time to boot.
        stop_seconds: what the agent has to end by itself, before it is made to.
        preempt_seconds: taken back after so long; 0: only when somebody asks.
        notice_seconds: between the notice and the end of one that is taken back.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    start_seconds: float = 0.0
    join_seconds: float = 900.0
    silent_seconds: float = 7200.0
    life_seconds: float = 0.0
    stop_seconds: float = 30.0
    preempt_seconds: float = 0.0
    notice_seconds: float = 30.0


class MachineFolder:
    """Paths and files of one machine."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.agent = path / "agent"
        self.notice = path / "notice.json"
        self.log = path / "machine.log"
        self._card, self._status = path / "card.json", path / "status.json"
        self._launch, self._lock = path / "launch.json", path / "keeper.lock"
        self._release, self._preempt = path / "release", path / "preempt"

    def make(self, card: Card, launch: Launch) -> None:
        """Everything that a machine has before its keeper starts."""
        self.path.mkdir(mode=0o700)
        self.agent.mkdir(mode=0o700)
        _write(self._card, asdict(card))
        _write(self._launch, asdict(launch))
        self.note(Status(state=MachineState.STARTING))

    def card(self) -> Card:
        """What was rented."""
        with _understood(self._card) as values:
            return Card(**{**values, "place": Place(**values["place"])})

    def launch(self) -> Launch:
        """How it is run."""
        with _understood(self._launch) as values:
            return Launch(**{**values, "argv": tuple(values["argv"])})

    def status(self) -> Status:
        """How it is doing."""
        with _understood(self._status) as values:
            return Status(**{**values, "state": MachineState(values["state"])})

    def note(self, status: Status) -> None:
        """Says how it is doing. Only for who holds the lock."""
        _write(self._status, asdict(status))

    # What others ask of the keeper.

    def ask_release(self) -> None:
        """The machine shall end."""
        self._release.touch(mode=0o600)

    def ask_preempt(self) -> None:
        """The machine shall be taken back."""
        self._preempt.touch(mode=0o600)

    @property
    def release_asked(self) -> bool:
        """Whether somebody gave it back."""
        return self._release.exists()

    @property
    def preempt_asked(self) -> bool:
        """Whether its owner wants it back."""
        return self._preempt.exists()

    def write_notice(self, deadline: float) -> None:
        """Tells the agent until when it has the machine, in seconds since 1970."""
        _write(self.notice, {"deadline": deadline})

    # Who is alive.

    def take(self) -> int | None:
        """The lock, as an open file; None when somebody has it. Closing the last copy of it lets go."""
        lock = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        return lock

    @property
    def is_kept(self) -> bool:
        """Whether a keeper lives. A lock cannot be mistaken for another's, as the number of a process can."""
        lock = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # Shared, so that two who only look do not take one another for the keeper.
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
        return False

    # The end.

    def empty(self) -> None:
        """Removes what a machine leaves: its disk, its secrets, its notice. Card, status and log stay for a while."""
        for path in (self._launch, self.notice):
            path.unlink(missing_ok=True)
        remove_tree(self.agent)


def remove_tree(path: Path) -> None:
    """Removes a folder, also one with folders in it that nobody may write to."""
    shutil.rmtree(path, ignore_errors=True)
    if not path.exists():
        return
    for directory, names, _ in os.walk(path):
        for name in names:
            below = Path(directory, name)
            with contextlib.suppress(OSError):
                if not below.is_symlink():
                    below.chmod(0o700)
    shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _understood(path: Path) -> Iterator[dict[str, Any]]:
    text = path.read_text(encoding="utf-8")
    try:
        yield json.loads(text)
    except (ValueError, KeyError, TypeError) as error:
        raise Unreadable(path) from error


def _write(path: Path, values: Mapping[str, Any]) -> None:
    draft = path.with_suffix(".new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(values, file)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
