"""Runs the command line as a user does: a process with its own environment, in a pipe or on a terminal."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.until import soon

STYX = (sys.executable, "-m", "styx_cli")


@dataclass(frozen=True)
class Finished:
    """What a program left behind."""

    code: int
    out: bytes
    err: bytes

    @property
    def text(self) -> str:
        """Its answer."""
        return self.out.decode()

    @property
    def talk(self) -> str:
        """What it said on stderr."""
        return self.err.decode()


def environment(data_dir: Path, **more: str) -> dict[str, str]:
    """A clean environment that knows one data folder."""
    return {"PATH": os.environ["PATH"], "HOME": str(data_dir), "STYX_DATA_DIR": str(data_dir), "LANG": "C.UTF-8"} | more


async def styx(data_dir: Path, *words: str, stdin: bytes = b"", env: dict[str, str] | None = None) -> Finished:
    """Runs one command to its end."""
    process = await start(data_dir, *words, env=env)
    out, err = await process.communicate(stdin)
    assert process.returncode is not None
    return Finished(process.returncode, out, err)


async def start(data_dir: Path, *words: str, env: dict[str, str] | None = None) -> asyncio.subprocess.Process:
    """Starts one command, with pipes."""
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        *STYX, *words, stdin=pipe, stdout=pipe, stderr=pipe, env=environment(data_dir, **(env or {})), cwd="/"
    )


class Terminal:
    """A command on a terminal, and the person in front of it."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process = process
        self.seen = b""
        self._master = master

    def read(self) -> None:
        """Takes what is on the screen now."""
        try:
            self.seen += os.read(self._master, 65536)
        except BlockingIOError:
            return
        except OSError:
            asyncio.get_running_loop().remove_reader(self._master)

    def type(self, keys: bytes) -> None:
        """Presses keys; b"\\x03" is Ctrl-C."""
        os.write(self._master, keys)

    async def shows(self, text: bytes) -> None:
        """Waits until it is on the screen."""
        await soon(lambda: text in self.seen, f"{text!r} on the terminal; there is {self.seen[-500:]!r}")

    async def ends(self) -> int:
        """Waits for the exit code."""
        await soon(lambda: self.process.poll() is not None, "the program ends")
        self.read()
        return self.process.returncode


@asynccontextmanager
async def on_terminal(data_dir: Path, *words: str, columns: int = 100, **more: str) -> AsyncIterator[Terminal]:
    """Runs one command on a terminal of its own."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    argv = [sys.executable, "-c", _TAKE_TERMINAL, *STYX, *words]
    env = environment(data_dir, TERM="xterm", **more)
    process = subprocess.Popen(  # noqa: ASYNC220 - a terminal's process is the kernel's business, and quick to start
        argv, stdin=slave, stdout=slave, stderr=slave, env=env, cwd="/", start_new_session=True
    )
    os.close(slave)
    os.set_blocking(master, False)
    terminal = Terminal(process, master)
    asyncio.get_running_loop().add_reader(master, terminal.read)
    try:
        yield terminal
    finally:
        asyncio.get_running_loop().remove_reader(master)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        await soon(lambda: process.poll() is not None, "the program is gone")
        os.close(master)


# The terminal must be the controlling one, or Ctrl-C means nothing.
_TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)
