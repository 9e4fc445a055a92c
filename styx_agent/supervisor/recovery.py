"""What a new supervisor does about the attempts of the one before: nothing of them may be left, and each gets an end.

An attempt with an end record keeps it. One without is dead (its parent was) or is killed now; how its command ended is
not known, and the outcome says so. Next: `warden.py`, which takes over from here.
"""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Any

from styx_agent.supervisor import clock
from styx_agent.supervisor.cgroups import Cgroups
from styx_agent.supervisor.journal import Journal
from styx_agent.supervisor.marks import Marks
from styx_agent.supervisor.rules import Outcome
from styx_agent.supervisor.spool import measure
from styx_agent.supervisor.wire import Message

_PATIENCE_SECONDS = 60.0
_LOOK_EVERY_SECONDS = 0.01


def kill_leftovers(marks: Marks, cgroups: Cgroups | None) -> bool:
    """Kills every process of every earlier attempt; whether none is left."""
    deadline = clock.monotonic() + _PATIENCE_SECONDS
    while True:
        left = [group for _, group in (cgroups.leftovers() if cgroups else ()) if not group.remove()]
        for group in left:
            group.kill()
        found = marks.scan()
        for number in (signal.SIGSTOP, signal.SIGKILL):  # stopped first, so that nothing forks away
            for fence, pids in found.items():
                marks.send(pids, fence, number)
        if not left and not found:
            return True
        if clock.monotonic() > deadline:
            return False
        clock.sleep(_LOOK_EVERY_SECONDS)


def settle(directory: str, journal: Journal, boot_id: str) -> list[Message]:
    """Every attempt that the journal holds, ended; an end is recorded for those that had none."""
    rebooted = journal.boot_id not in ("", boot_id)
    now_boot, now_real = clock.boottime_micros(), clock.realtime_micros()
    messages: list[Message] = []
    for fence, start in journal.starts.items():
        home = f"{directory}/attempts/{fence}"
        end = journal.ends.get(fence)
        if end is None:
            end = _lost(home, rebooted=rebooted, now_boot=now_boot, now_real=now_real)
            journal.end(fence, end)
        elif rebooted:
            end = _after_reboot(home, end, now_boot, now_real)
        messages.append(_message(fence, start["order"], end))
    journal.boot_id = boot_id
    return messages


def _lost(home: str, *, rebooted: bool, now_boot: int, now_real: int) -> dict[str, Any]:
    outcome = (
        Outcome(kind="HOST_REBOOTED", message="the machine restarted under it")
        if rebooted
        else Outcome(kind="SUPERVISOR_LOST", message="the agent's supervisor died; the command was killed")
    )
    logs = []
    with contextlib.suppress(FileNotFoundError):
        logs = [log for log in (measure(home, name) for name in ("stdout", "stderr")) if log]
    return {
        "started_micros": None,
        "ended_micros": now_boot,
        "ended_real": now_real,
        "outcome": outcome.to_message(),
        "logs": logs,
        "recorded": False,
    }


def _after_reboot(home: str, end: dict[str, Any], now_boot: int, now_real: int) -> dict[str, Any]:
    """Times on the clock of this start of the machine, and a gap for output that the disk did not keep."""
    ended = now_boot - max(0, now_real - int(end["ended_real"]))
    started = end["started_micros"]
    if started is not None:
        started = ended - (int(end["ended_micros"]) - started)
    logs = []
    for log in end["logs"]:
        kept = 0
        with contextlib.suppress(FileNotFoundError):
            kept = (measure(home, log["stream"], log["gaps"]) or {"total": 0})["total"]
        if kept < log["total"]:
            logs.append({**log, "sha256": "", "gaps": [*log["gaps"], [kept, log["total"], "disk_error"]]})
        else:
            logs.append(log)
    return {**end, "started_micros": started, "ended_micros": ended, "logs": logs}


def _message(fence: int, order: dict[str, Any], end: dict[str, Any]) -> Message:
    positions = [
        {"stream": log["stream"], "end": log["total"], "freed": 0, "gaps": log["gaps"], "marks": []}
        for log in end["logs"]
    ]
    return {
        "fence": fence,
        "task_id": order["task_id"],
        "attempt": order["attempt"],
        "state": "ENDED",
        **{name: end[name] for name in ("started_micros", "ended_micros", "outcome", "logs", "recorded")},
        "streams": positions,
    }


def remove_strangers(directory: str, journal: Journal) -> list[str]:
    """Directories of attempts that nobody remembers."""
    root = os.path.join(directory, "attempts")
    names = os.listdir(root) if os.path.isdir(root) else []
    return [os.path.join(root, name) for name in names if not name.isdigit() or int(name) not in journal.starts]
