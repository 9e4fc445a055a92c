"""`styx up --detach`, and `styx down`: the same stack with nobody watching.

The stack in the background is this program again, in a session of its own, with its talk in `logs/up.log`. Whoever
started it waits until it says that it is ready, or learns why not.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

from styx_cli import clock
from styx_cli.local.folder import LocalFolder, UpRecord, tail
from styx_cli.local.processes import holder_of_lock, start_ticks

_POLL_SECONDS = 0.05
_STOP_SECONDS = 120.0


def start(folder: LocalFolder, arguments: Sequence[str]) -> int:
    """Starts `styx up` in the background and waits until it is ready.

    Args:
        folder: its data folder.
        arguments: of `styx up`, without `--detach`.

    Returns:
        0, or the exit code with which it gave up. Its own words are in the log of the name `up`.
    """
    log_path = folder.log("up")
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "styx_cli", "up", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            start_new_session=True,
        )
    try:
        while process.poll() is None:
            record = folder.read_record()
            if record is not None and record.pid == process.pid and record.ready:
                return 0
            clock.pause(_POLL_SECONDS)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    return process.returncode or 1


def words(folder: LocalFolder) -> str:
    """What the stack in the background has said."""
    return "\n".join(tail(folder.log("up"), lines=40))


def stop(folder: LocalFolder) -> UpRecord | None:
    """Stops the `styx up` of a folder and waits until it is gone; None when none runs.

    Raises:
        TimeoutError: it was told to stop and is still there.
        ProcessLookupError: the folder is held, but it cannot be seen by whom.
    """
    if not folder.is_held():
        return None
    record = folder.read_record()
    if record is None or start_ticks(record.pid) != record.start_ticks:
        pid = holder_of_lock(folder.lock)
        if pid is None:
            raise ProcessLookupError(f"{folder.root} is in use, but by a process that cannot be seen from here")
        record = UpRecord(pid=pid, start_ticks=start_ticks(pid) or 0)
    with suppress(ProcessLookupError):
        os.kill(record.pid, signal.SIGTERM)
    deadline = clock.monotonic() + _STOP_SECONDS
    # The lock falls a moment before the process has ended; "stopped" means both.
    while folder.is_held() or start_ticks(record.pid) == record.start_ticks:
        if clock.monotonic() > deadline:
            raise TimeoutError(f"process {record.pid} was told to stop {_STOP_SECONDS:.0f} s ago and still runs")
        clock.pause(_POLL_SECONDS)
    return record
