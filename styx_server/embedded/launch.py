"""Starts PostgreSQL's programs so that none of them outlives this process.

Everything that is started here gets SIGINT from the kernel when the *thread* that started it ends, so only the main
thread may ask. It knows nothing of clusters. Next: `postmaster.py` tells the state of what was started.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import threading
from dataclasses import dataclass
from typing import IO, Any

from styx_server.embedded.errors import INSTEAD, StartFailed

# Between the start of the program and its wish to die with us, we may already be gone: then it must not go on.
_ONLY_UNDER = 'test "$PPID" -eq "$0" || exit 1; exec "$@"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who runs the programs.

    Attributes:
        words: for error messages.
        prefix: command that changes the identity and then executes what follows.
        owner: user and group, by number as this process sees them, to whom the files must belong.
    """

    words: str
    prefix: tuple[str, ...] = ()
    owner: tuple[int, int]


async def run(command: list[str], identity: Identity) -> tuple[int, str]:
    """Runs a short program to its end; returns its exit code and what it said."""
    process = await asyncio.create_subprocess_exec(
        *_die_with_us(command, identity), **_child(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    return process.returncode or 0, output.decode(errors="replace")


def start(command: list[str], identity: Identity, log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Starts a long-lived program that talks to `log`."""
    return subprocess.Popen(_die_with_us(command, identity), **_child(), stdout=log, stderr=log)


def _die_with_us(command: list[str], identity: Identity) -> list[str]:
    """`command` under `identity`, to be ended by SIGINT when the calling thread ends, for whatever reason."""
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("only the main thread may start PostgreSQL: it dies with the thread that started it")
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise StartFailed(
            "the program setpriv (of util-linux) was not found; it ends PostgreSQL together with Styx. "
            f"Install it, {INSTEAD}."
        )
    # The wish comes after the change of identity, which would cancel it.
    guard = [setpriv, "--pdeathsig", "INT", "--", "/bin/sh", "-c", _ONLY_UNDER, str(os.getpid())]
    return [*identity.prefix, *guard, *command]


def _child() -> dict[str, Any]:
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return {
        "stdin": subprocess.DEVNULL,
        "cwd": "/",
        # A session of its own: Ctrl-C in the terminal is ours to answer.
        "start_new_session": True,
        # From scratch, because PostgreSQL's programs obey PG* variables.
        "env": {"PATH": "/usr/local/bin:/usr/bin:/bin", **kept, "LC_ALL": "C"},
    }
