"""Builds the supervisor and runs it: `python -I -S -c "...; main()" --data-dir DIR`.

Takes the lock, settles what an earlier supervisor left, opens the door, and goes round until nobody needs it: no link
and no live process for a minute, or the link says so. Next: `warden.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import gc
import os
import sys

from styx import failpoints
from styx_agent.supervisor import clock, kernel, program, recovery
from styx_agent.supervisor.attempt import Surroundings
from styx_agent.supervisor.cgroups import Cgroups, find_cgroups, isolation
from styx_agent.supervisor.children import Children
from styx_agent.supervisor.door import Door
from styx_agent.supervisor.guardian import Guardian, arguments, cgroup_name, tag_of
from styx_agent.supervisor.journal import Journal
from styx_agent.supervisor.leases import LeaseKeeper
from styx_agent.supervisor.marks import Marks
from styx_agent.supervisor.reactor import Reactor, Timer
from styx_agent.supervisor.spawn import Spawner, protect_supervisor
from styx_agent.supervisor.trash import Trash
from styx_agent.supervisor.warden import Warden, watch_signals
from styx_agent.supervisor.wire import VERSION, Message, dial
from styx_agent.supervisor.workplaces import Workplaces

LOCK_NAME = "supervisor.lock"
BUSY_NAME = "busy"
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_LOCK_WAIT_SECONDS = 0.05
_LOCK_TRIES = 1400
_IDLE_MICROS = 60 * clock.SECOND


def main() -> None:
    """The process."""
    parser = argparse.ArgumentParser(prog="styx-supervisor")
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--no-cgroup", action="store_true", help="wall tasks in without control groups")
    parser.add_argument("--idle-seconds", type=float, default=_IDLE_MICROS / clock.SECOND)
    options = parser.parse_args()
    failpoints.arm(os.environ)
    directory = os.path.realpath(options.data_dir)
    lock = _lock(directory)
    if lock is None:
        return  # another one is at work; the link finds it
    os.umask(0o022)
    Supervisor(directory, lock, cgroup=not options.no_cgroup, idle_micros=round(options.idle_seconds * 1e6)).run()


def _lock(directory: str) -> int | None:
    """The lock of this directory, or None when another supervisor answers here.

    Held by nobody who answers, it is a guardian's, which lets go when it has killed what it must.
    """
    lock = os.open(os.path.join(directory, LOCK_NAME), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for _ in range(_LOCK_TRIES):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        with contextlib.suppress(OSError):
            dial(directory).close()
            return None
        clock.sleep(_LOCK_WAIT_SECONDS)
    sys.exit(f"{directory}: the lock is held, and nobody answers")


class Supervisor:
    """Everything put together."""

    def __init__(self, directory: str, lock: int, *, cgroup: bool, idle_micros: int) -> None:
        self._directory = directory
        self._program = program.digest()
        self._idle_micros = idle_micros
        tag = tag_of(directory)
        self._id = f"{os.getpid()}-{clock.boottime_micros()}"
        kernel.become_subreaper()
        protect_supervisor()
        self._cgroups: Cgroups | None = find_cgroups(cgroup_name(tag)) if cgroup else None
        self._marks = Marks(int.from_bytes(tag[:4], "big"))
        self._reactor = Reactor()
        self._journal = Journal(directory, self._reactor.call_after)
        self._trash = Trash(directory)
        self._settle_processes()
        self._guardian = Guardian(arguments(directory, _ROOT, cgroup=self._cgroups is not None), lock)
        if not self._guardian.post():
            sys.exit("no guardian can be started; are there too many processes?")
        self._children = Children(self._trash, self._guardian, self._reactor.call_after)
        self._leases = LeaseKeeper(directory)
        self._warden = Warden(
            directory,
            journal=self._journal,
            trash=self._trash,
            children=self._children,
            leases=self._leases,
            send=self._say,
        )
        self._warden.around = Surroundings(
            reactor=self._reactor,
            spawner=Spawner(self._cgroups.home if self._cgroups is not None else None),
            marks=self._marks,
            cgroups=self._cgroups,
            workplaces=Workplaces(directory, self._trash),
            lease=self._leases.current,
            orphans=self._children.orphans,
            started=self._children.started,
            changed=self._warden.on_changed,
            grown=self._warden.on_grown,
        )
        self._settle()
        watch_signals(self._reactor, self._children.reap, self._stop_all)
        self._leaving = False
        self._idle: Timer | None = None
        self._door = Door(directory, self._reactor, self._on_message, self._welcome, self._watch_idle)
        self._watch_idle()
        self._note_work()

    def run(self) -> None:
        """Goes round until nobody needs it."""
        gc.collect()
        gc.freeze()
        self._reactor.run(self._after_round)
        self._door.close()
        self._journal.close()
        self._guardian.dismiss()
        if self._cgroups is not None:
            self._cgroups.close()

    def _settle_processes(self) -> None:
        if not recovery.kill_leftovers(self._marks, self._cgroups):
            sys.exit("processes of earlier attempts cannot be killed; not starting beside them")

    def _settle(self) -> None:
        boot_id = clock.boot_id()
        os.makedirs(f"{self._directory}/attempts", mode=0o700, exist_ok=True)
        for message in recovery.settle(self._directory, self._journal, boot_id):
            self._warden.adopt_ended(message)
        for path in recovery.remove_strangers(self._directory, self._journal):
            self._trash.throw_away(path)
        self._journal.boot(boot_id, self._id)
        self._journal.commit()

    def _after_round(self) -> bool:
        hurry = self._warden.after_round()
        self._door.greet()
        if self._leaving and not self._warden.live_count:
            self._reactor.stop()
        return hurry

    def _welcome(self) -> Message:
        lease = self._leases.current()
        return {
            "op": "welcome",
            "version": VERSION,
            "program": self._program,
            "supervisor_id": self._id,
            "boot_id": clock.boot_id(),
            "pid": os.getpid(),
            "isolation": isolation(self._cgroups),
            "cgroup": self._cgroups is not None,
            "queue": True,
            "notice": True,
            "lease": None if lease is None else [lease.sent_micros, lease.window_micros],
            "attempts": self._warden.attempts(),
        }

    def _on_message(self, message: Message) -> None:
        if message["op"] != "shutdown":
            self._warden.order(message)
        elif message.get("stop_tasks"):
            self._stop_all()
        elif not self._warden.live_count:
            self._leaving = True

    def _stop_all(self) -> None:
        self._leaving = True
        self._warden.order({"op": "stop_all", "cause": "PREEMPT", "grace_micros": 10 * clock.SECOND})

    def _say(self, messages: list[Message]) -> None:
        self._door.send(messages)

    def _watch_idle(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
        self._idle = self._reactor.call_after(self._idle_micros, self._look_idle)

    def _note_work(self) -> None:
        """Says on disk that something runs here, for a dead-man that would end the machine."""
        self._reactor.call_after(self._idle_micros, self._note_work)
        if self._warden.live_count:
            with contextlib.suppress(OSError), open(f"{self._directory}/{BUSY_NAME}", "w", encoding="ascii"):
                os.utime(f"{self._directory}/{BUSY_NAME}")

    def _look_idle(self) -> None:
        if self._door.has_link or self._warden.live_count:
            self._watch_idle()
        else:
            self._leaving = True
