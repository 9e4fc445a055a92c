"""The keeper of one machine, a process of its own: `python -m ...processes.keeper FOLDER LOCK [bury]`.

Starts the agent, starts it again when it falls, and ends the machine with all that is in it: when it is given back,
taken back, too old, never joined, or forgotten by every server. It knows no server, and needs none to be alive. LOCK is
the number of the open file that holds the folder's lock: as long as this process lives, others see that the machine
does. With `bury` it clears up after a keeper that was killed. Next: `kin.py`.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
from pathlib import Path

from styx_server import clock
from styx_server.core.machines.instance import MachineState
from styx_server.providers.processes import kin
from styx_server.providers.processes.folder import MachineFolder, Status

_PR_SET_CHILD_SUBREAPER = 36
_LOOK_SECONDS = 1.0
_LEAST_WAIT_SECONDS = 0.01
_SILENCE_LOOKS = 20
_MOST_BACKOFF_SECONDS = 30.0
_SIGNALS = (signal.SIGTERM, signal.SIGCHLD)
_FINAL_EXITS = {0: "agent_ended", 2: "agent_refused", 3: "agent_removed"}
"""Exits of the agent after which it makes no sense to start it again; see `styx_agent/__main__.py`."""


def main() -> None:
    """The process."""
    folder, lock = MachineFolder(Path(sys.argv[1])), int(sys.argv[2])
    os.set_inheritable(lock, False)
    # Whatever loses its parent on this machine comes to us, so that nothing gets away.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    if sys.argv[3:] == ["bury"]:
        bury(folder)
    else:
        Keeper(folder).run()


class Keeper:
    """One machine from its start to its end."""

    def __init__(self, folder: MachineFolder) -> None:
        self._folder = folder
        self._launch = folder.launch()
        self._born = clock.boottime()
        self._start_at = self._born + self._launch.start_seconds
        self._backoff = 1.0
        self._agent: tuple[int, int] | None = None
        self._first_start: float | None = None
        self._joined = False
        self._silence_look = self._born
        self._taken_back_at: float | None = None
        self._told_to_end = False
        self._final = ""

    def run(self) -> None:
        """Lives, and ends."""
        self._note(MachineState.STARTING)
        while not (reason := self._reason_to_end(clock.boottime())):
            self._start_if_due(clock.boottime())
            self._wait(self._seconds_to_next_look(clock.boottime()))
        self._note(MachineState.ENDING, reason)
        if reason != "preempted":
            self._stop_gently()
        finish(self._folder, reason, self._wait)

    def _note(self, state: MachineState, reason: str = "") -> None:
        # A full disk must not end the machine; the lock says that it lives.
        with contextlib.suppress(OSError):
            self._folder.note(status_of(state, reason))

    # Why it ends.

    def _reason_to_end(self, now: float) -> str:
        if self._folder.release_asked:
            return "released"
        if self._told_to_end:
            return "stopped"
        if not self._folder.path.exists():
            return "folder_removed"
        if self._is_taken_back(now):
            return "preempted"
        if self._launch.life_seconds and now >= self._born + self._launch.life_seconds:
            return "expired"
        if self._final:
            return self._final
        return self._forgotten(now)

    def _is_taken_back(self, now: float) -> bool:
        due = self._launch.preempt_seconds and now >= self._born + self._launch.preempt_seconds
        if self._taken_back_at is None and (due or self._folder.preempt_asked):
            self._taken_back_at = now + self._launch.notice_seconds
            with contextlib.suppress(OSError):
                self._folder.write_notice(clock.now().timestamp() + self._launch.notice_seconds)
        return self._taken_back_at is not None and now >= self._taken_back_at

    def _forgotten(self, now: float) -> str:
        if self._first_start is None:
            return ""
        if not self._joined:
            self._joined = has_joined(self._folder.agent)
            return "never_joined" if not self._joined and now >= self._first_start + self._launch.join_seconds else ""
        if now < self._silence_look:
            return ""
        self._silence_look = now + self._launch.silent_seconds / _SILENCE_LOOKS
        silent = now - last_heard(self._folder.agent, self._first_start) > self._launch.silent_seconds
        return "silent" if silent and not self._is_busy() else ""

    def _is_busy(self) -> bool:
        agent = 0 if self._agent is None else self._agent[0]
        there = kin.kin(self._folder.agent, os.getpid())
        return any(not process.is_agents and process.pid != agent for process in there)

    # The agent.

    def _start_if_due(self, now: float) -> None:
        if self._agent is not None or now < self._start_at:
            return
        log = str(self._folder.log)
        try:
            pid = os.posix_spawn(
                self._launch.argv[0],
                self._launch.argv,
                self._launch.env,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                ],
                setsid=True,
                setsigmask=(),
                setsigdef=(signal.SIGINT, signal.SIGQUIT, signal.SIGHUP),
            )
        except OSError as error:
            sys.stderr.write(f"keeper: {self._launch.argv[0]} cannot be started: {error.strerror}\n")
            self._start_later(now)
            return
        self._agent = (pid, kin.start_ticks(pid))
        if self._first_start is None:
            self._first_start = now
            self._note(MachineState.RUNNING)

    def _start_later(self, now: float) -> None:
        self._start_at = now + self._backoff
        self._backoff = min(2 * self._backoff, _MOST_BACKOFF_SECONDS)

    def _stop_gently(self) -> None:
        until = clock.boottime() + self._launch.stop_seconds
        if self._agent is not None:
            kin.send(*self._agent, signal.SIGTERM)
        while self._agent is not None and (left := until - clock.boottime()) > 0:
            self._wait(left)

    # Waiting.

    def _seconds_to_next_look(self, now: float) -> float:
        launch, first = self._launch, self._first_start
        due = [
            self._start_at if self._agent is None else None,
            self._taken_back_at,
            self._born + launch.life_seconds if launch.life_seconds else None,
            self._born + launch.preempt_seconds if launch.preempt_seconds else None,
            first + launch.join_seconds if first is not None else None,
        ]
        return min([time - now for time in due if time is not None and time > now], default=_LOOK_SECONDS)

    def _wait(self, seconds: float) -> None:
        """Until a signal, but not long: what is asked is asked by files, and a signal may have been missed."""
        seconds = max(_LEAST_WAIT_SECONDS, min(seconds, _LOOK_SECONDS))
        received = signal.sigtimedwait(_SIGNALS, seconds)
        if received is not None and received.si_signo == signal.SIGTERM:
            self._told_to_end = True
        self._reap()

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if self._agent is not None and ended[0] == self._agent[0]:
                    self._agent = None
                    self._final = _FINAL_EXITS.get(os.waitstatus_to_exitcode(ended[1]), "")
                    self._start_later(clock.boottime())


def bury(folder: MachineFolder) -> None:
    """Clears up after a keeper that did not."""
    last = folder.status()
    if last.state is MachineState.ENDED:
        return
    asked = "released" if folder.release_asked else ""
    lost = "keeper_lost" if last.boot_id in {"", boot_id()} else "host_rebooted"
    reason = last.reason or asked or lost
    folder.note(status_of(MachineState.ENDING, reason))
    finish(folder, reason, _nap)


def finish(folder: MachineFolder, reason: str, wait: kin.Wait) -> None:
    """Ends everything, and says so: nothing of the machine is left but what it was and why it ended."""
    kin.end_all(folder.agent, os.getpid(), wait)
    folder.empty()
    # Where it cannot be said, because the disk is full, the next who looks finds the lock free and has it said again.
    with contextlib.suppress(OSError):
        folder.note(status_of(MachineState.ENDED, reason))


def status_of(state: MachineState, reason: str) -> Status:
    """What this process says of its machine."""
    return Status(
        state=state,
        reason=reason,
        boot_id=boot_id(),
        keeper_pid=os.getpid(),
        keeper_ticks=kin.start_ticks(os.getpid()),
        end_time=clock.now().timestamp() if state is MachineState.ENDED else None,
    )


def boot_id() -> str:
    """Of this start of the computer."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def has_joined(agent: Path) -> bool:
    """Whether a server knows the agent by a number."""
    return bool(_field(agent / "identity.json", "agent_id"))


def last_heard(agent: Path, otherwise: float) -> float:
    """When a server last took a beat of the agent, in seconds since this computer started."""
    return max(otherwise, _field(agent / "lease.json", "sent_micros") / 1e6)


def _field(path: Path, name: str) -> float:
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))[name])
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0


def _nap(seconds: float) -> None:
    signal.sigtimedwait(_SIGNALS, seconds)


if __name__ == "__main__":
    main()
