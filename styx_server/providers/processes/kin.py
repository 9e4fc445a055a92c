"""Which processes belong to a machine, and how they are ended. Looks at `/proc`; remembers nothing.

A machine's processes are what descends from its keeper, and what says on its command line that it is an agent's
process with this machine's data folder: so they are found too when the keeper is gone. Next: `keeper.py`.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Wait = Callable[[float], None]
LOOK = signal.SIGCHLD
"""Makes a keeper look at once for what is asked of it; harmless to any other process."""

_AGENT = b"styx_agent"
_GUARDIAN = (b"styx-guardian", b"styx_agent.supervisor.guardian")
_START_TICKS_FIELD = 19
_PATIENCE_ROUNDS = 200
_ROUND_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One live process, as it was when somebody looked."""

    pid: int
    parent: int
    ticks: int
    words: tuple[bytes, ...]

    @property
    def is_agents(self) -> bool:
        """Whether it is part of the agent rather than a task."""
        return any(_AGENT in word for word in self.words)

    @property
    def is_guardian(self) -> bool:
        """Whether it is the process that ends what a killed supervisor leaves, its control groups too."""
        return any(mark in word for word in self.words for mark in _GUARDIAN)


def look(pid: int) -> Process | None:
    """A process; None when there is none, or only its remains."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return None
    if fields[0] in "ZX":
        return None
    return Process(pid=pid, parent=int(fields[1]), ticks=int(fields[_START_TICKS_FIELD]), words=tuple(words))


def start_ticks(pid: int) -> int:
    """When a process started, in ticks since this computer did; 0 when there is none."""
    process = look(pid)
    return 0 if process is None else process.ticks


def send(pid: int, ticks: int, number: signal.Signals) -> bool:
    """Sends a signal to the process that started then, and to no other that has its number now; whether it is there."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        # The handle stays with the process that it was opened for, so what is seen now is what gets the signal.
        if start_ticks(pid) != ticks:
            return False
        signal.pidfd_send_signal(handle, number)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def kin(home: Path, keeper_pid: int) -> list[Process]:
    """The live processes of the machine whose agent has its data in `home`."""
    numbers = [int(entry.name) for entry in os.scandir("/proc") if entry.name.isdigit()]
    everybody = [found for number in numbers if (found := look(number)) is not None]
    children: dict[int, list[Process]] = {}
    for process in everybody:
        children.setdefault(process.parent, []).append(process)
    place = os.fsencode(home)
    reached = {process.pid: process for process in everybody if process.is_agents and place in process.words}
    reached |= {process.pid: process for process in children.get(keeper_pid, ())}
    waiting = list(reached)
    while waiting:
        for child in children.get(waiting.pop(), ()):
            if child.pid not in reached:
                reached[child.pid] = child
                waiting.append(child.pid)
    reached.pop(keeper_pid, None)
    return list(reached.values())


def end_all(home: Path, keeper_pid: int, wait: Wait) -> None:
    """Kills every process of a machine, and returns when none is left.

    The guardian of the agent's supervisor is spared for a while: it kills what it knows better than anybody, and takes
    the control groups away.
    """
    rounds = 0
    while found := kin(home, keeper_pid):
        for process in found:
            if rounds >= _PATIENCE_ROUNDS or not process.is_guardian:
                with contextlib.suppress(OSError):
                    send(process.pid, process.ticks, signal.SIGKILL)
        wait(_ROUND_SECONDS)
        rounds += 1
