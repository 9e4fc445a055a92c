"""All machines of this computer that one folder knows: made, found again, given back, listed.

Several server processes may use one folder at a time; a lock is held while one looks and makes. Blocks, so call it
from a thread. Decides nothing about prices, places and limits: that is the provider's part (`local.py`, `fake.py`).
Next: `keeper.py`, the process that every machine has.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from styx_server import clock
from styx_server.core.machines.instance import CloudMachine, MachineState, RentOrder
from styx_server.core.machines.offer import Place
from styx_server.core.machines.refusal import RefusalKind
from styx_server.providers.ports import ProviderError
from styx_server.providers.processes import kin
from styx_server.providers.processes.folder import Card, Launch, MachineFolder, Status, Unreadable, remove_tree
from styx_server.providers.processes.launch import base_environment

KEEP_SECONDS = 3600.0
"""How long a machine that has ended stays on the list."""

Admit = Callable[[Sequence[CloudMachine]], None]
"""Raises ProviderError when there may not be one more beside these."""

Starter = Callable[..., None]

_KEY = re.compile(r"[a-z0-9]([a-z0-9-]{0,63})")
_KINDS = {
    errno.EACCES: RefusalKind.PERMISSION,
    errno.EPERM: RefusalKind.PERMISSION,
    errno.EROFS: RefusalKind.PERMISSION,
    errno.ENOTDIR: RefusalKind.PERMISSION,
    errno.EDQUOT: RefusalKind.QUOTA,
    errno.ENOSPC: RefusalKind.CAPACITY,
    errno.EAGAIN: RefusalKind.CAPACITY,
    errno.ENOMEM: RefusalKind.CAPACITY,
    errno.EMFILE: RefusalKind.CAPACITY,
    errno.ENFILE: RefusalKind.CAPACITY,
}
_REMEDIES = {
    RefusalKind.PERMISSION: "let the server's user write there, or give the server another data folder",
    RefusalKind.QUOTA: "the user's disk quota is used up: remove something, or ask for more",
    RefusalKind.CAPACITY: "this computer is full: free disk space, memory or processes",
    RefusalKind.UNAVAILABLE: "it is tried again; look at the disk if it goes on",
}


def start_keeper(folder: MachineFolder, lock: int, *words: str) -> None:
    """Starts a keeper that nobody has to wait for, with a copy of the lock.

    Raises:
        OSError: no process can be made.
    """
    program = [sys.executable, "-P", "-m", "styx_server.providers.processes.keeper", str(folder.path), str(lock)]
    with folder.log.open("ab") as log:
        # The shell ends at once, so the keeper is a child of the first process and not of the server's.
        started = subprocess.run(
            ["/bin/sh", "-c", '"$@" &', "styx-keeper", *program, *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=base_environment(),
            pass_fds=(lock,),
            start_new_session=True,
            check=False,
        )
    if started.returncode:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))


class MachineRoom:
    """The machines below one folder.

    Args:
        name: of the provider: the first part of the machines' ids.
        start: starts the keeper of a folder.
    """

    def __init__(self, root: Path, *, name: str, start: Starter = start_keeper) -> None:
        self.root = Path(os.path.realpath(root))
        self._name = name
        self._machines = self.root / "machines"
        self._start = start

    def rent(self, order: RentOrder, place: Place, launch: Callable[[Path], Launch], admit: Admit) -> CloudMachine:
        """The machine of this key, made if there is none.

        Raises:
            ProviderError: the provider does not admit it, or this computer cannot.
        """
        if not _KEY.fullmatch(order.key):
            raise ProviderError(
                RefusalKind.BAD_REQUEST,
                f"a key has up to 64 characters of a-z, 0-9 and -, not {order.key!r}",
                code="InvalidKey",
            )
        with self._as_provider_errors(f"a machine cannot be made in {self._machines}"), self._alone():
            folder = MachineFolder(self._machines / order.key)
            if not folder.path.exists():
                admit([machine for machine in self._look() if machine.state is not MachineState.ENDED])
                self._make(folder, order, place, launch(folder.agent))
            return self._machine(folder)

    def release(self, cloud_id: str) -> None:
        """Asks the keeper of a machine to end it.

        Raises:
            ProviderError: it cannot be asked.
        """
        self._ask(cloud_id, MachineFolder.ask_release)

    def preempt(self, cloud_id: str) -> None:
        """Takes a machine back, after its notice.

        Raises:
            ProviderError: it cannot be told.
        """
        self._ask(cloud_id, MachineFolder.ask_preempt)

    def machines(self) -> list[CloudMachine]:
        """All of them, those that ended lately too. Sees to those whose keeper was killed.

        Raises:
            ProviderError: one of them cannot be read.
        """
        with self._as_provider_errors(f"the machines in {self._machines} cannot be listed"):
            return self._look()

    def end_all(self) -> None:
        """Asks every machine to end, for who takes the whole thing down."""
        for machine in self.machines():
            if machine.state is not MachineState.ENDED:
                self.release(machine.cloud_id)

    def folder_of(self, cloud_id: str) -> MachineFolder | None:
        """Where a machine is kept; None when no such machine is known."""
        key = cloud_id.removeprefix(f"{self._name}-")
        if key == cloud_id or not _KEY.fullmatch(key):
            return None
        folder = MachineFolder(self._machines / key)
        return folder if folder.path.exists() else None

    # One machine.

    def _make(self, folder: MachineFolder, order: RentOrder, place: Place, launch: Launch) -> None:
        draft = MachineFolder(self._machines / f".new-{order.key}")
        remove_tree(draft.path)
        lock = None
        try:
            draft.make(_card(order, place), launch)
            # Locked before anybody sees it, and never let go until it ends: so it is always clear whether it lives.
            lock = draft.take()
            assert lock is not None
            draft.path.rename(folder.path)
            self._start(folder, lock)
        except OSError:
            remove_tree(draft.path)
            remove_tree(folder.path)
            raise
        finally:
            if lock is not None:
                os.close(lock)

    def _ask(self, cloud_id: str, what: Callable[[MachineFolder], None]) -> None:
        with self._as_provider_errors(f"{cloud_id} cannot be told to end"), contextlib.suppress(FileNotFoundError):
            # What is not found has ended so long ago that somebody removes it just now.
            folder = self.folder_of(cloud_id)
            if folder is None or folder.status().state is MachineState.ENDED:
                return
            what(folder)
            if not self._bury_if_dead(folder):
                status = folder.status()
                kin.send(status.keeper_pid, status.keeper_ticks, kin.LOOK)

    def _machine(self, folder: MachineFolder) -> CloudMachine:
        status, card = folder.status(), folder.card()
        state = status.state
        if state is not MachineState.ENDED and self._bury_if_dead(folder):
            status = folder.status()
            state = max(status.state, MachineState.ENDING)
        elif folder.release_asked:
            state = max(state, MachineState.ENDING)
        return CloudMachine(
            place=card.place,
            cloud_id=f"{self._name}-{card.key}",
            state=state,
            key=card.key,
            tags=card.tags,
            spot=card.spot,
            create_time=datetime.fromtimestamp(card.create_time, UTC),
            reason=status.reason,
        )

    def _bury_if_dead(self, folder: MachineFolder) -> bool:
        """Whether its keeper is dead; then another one clears up."""
        if folder.is_kept:
            return False
        lock = folder.take()
        if lock is not None:
            try:
                # It may have ended in order since somebody looked.
                if folder.status().state is not MachineState.ENDED:
                    self._start(folder, lock, "bury")
            finally:
                os.close(lock)
        return True

    # All of them.

    def _look(self) -> list[CloudMachine]:
        found = []
        for path in sorted(self._machines.glob("[a-z0-9]*")):
            folder = MachineFolder(path)
            # Somebody else may be removing what is too old.
            with contextlib.suppress(FileNotFoundError):
                machine, status = self._machine(folder), folder.status()
                if _is_old(status):
                    self._forget(folder)
                else:
                    found.append(machine)
        return found

    def _forget(self, folder: MachineFolder) -> None:
        grave = folder.path.with_name(f".old-{folder.path.name}")
        with contextlib.suppress(OSError):
            folder.path.rename(grave)
        remove_tree(grave)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else makes a machine now."""
        self._machines.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self.root / "machines.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    @contextlib.contextmanager
    def _as_provider_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            kind = _KINDS.get(error.errno or 0, RefusalKind.UNAVAILABLE)
            code = errno.errorcode.get(error.errno or 0, type(error).__name__)
            raise ProviderError(kind, f"{what}: {error.strerror}; {_REMEDIES[kind]}", code=code) from error
        except Unreadable as error:
            raise ProviderError(RefusalKind.UNAVAILABLE, f"{what}: {error}", code="Unreadable") from error


def _card(order: RentOrder, place: Place) -> Card:
    return Card(
        key=order.key,
        place=place,
        machine_type=order.offer.machine_type,
        spot=order.offer.spot,
        tags=dict(order.tags),
        create_time=clock.now().timestamp(),
    )


def _is_old(status: Status) -> bool:
    return status.end_time is not None and clock.now().timestamp() - status.end_time > KEEP_SECONDS
