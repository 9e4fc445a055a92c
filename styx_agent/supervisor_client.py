"""The link's end of the unix socket: starts the supervisor when there is none, speaks, listens, begins again.

Moves messages; what they mean is the ledger's business (`ledger.py`). The language is in `supervisor/wire.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

import structlog

from styx import failpoints
from styx_agent import clock
from styx_agent.errors import SupervisorFailed
from styx_agent.supervisor import wire
from styx_agent.supervisor.wire import Message

log = structlog.get_logger(__name__)

_ROOT = str(Path(__file__).resolve().parent.parent)
_START = f"import sys; sys.path.insert(0, {_ROOT!r}); from styx_agent.supervisor.main import main; main()"
_LOG_NAME = "supervisor.log"
_PATIENCE_SECONDS = 90.0
_LOOK_EVERY_SECONDS = 0.02


def start_supervisor(data_dir: Path, *extra: str) -> subprocess.Popen[bytes]:
    """Starts one in a session of its own, so that no signal to the link's terminal or group reaches it.

    If one is running already the new one notices and ends at once.
    """
    with (data_dir / _LOG_NAME).open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _START, "--data-dir", str(data_dir), *extra],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            env={"PATH": os.environ.get("PATH", os.defpath), **failpoints.variables(os.environ)},
            start_new_session=True,
        )


class SupervisorClient(asyncio.Protocol):
    """One supervisor after the other, as if it were always the same.

    Args:
        on_message: called with everything that it says; the first of each connection is `welcome`.
    """

    def __init__(self, data_dir: Path, on_message: Callable[[Message], None]) -> None:
        self._data_dir = data_dir
        self._on_message = on_message
        self._process: subprocess.Popen[bytes] | None = None
        self._transport: asyncio.Transport | None = None
        self._reader = wire.FrameReader()
        self._outbox: list[Message] = []
        self._lost = asyncio.Event()
        self._may_restart = True
        self.ready = asyncio.Event()

    def prepare(self) -> None:
        """Starts the supervisor if there is none. Cheap, and best done before gRPC is imported."""
        try:
            wire.dial(str(self._data_dir)).close()
        except OSError:
            self._process = start_supervisor(self._data_dir)

    def say(self, message: Message) -> None:
        """Queues a message; all of one turn of the event loop go out as one frame. Lost if nobody is there."""
        if self._transport is None:
            return
        if not self._outbox:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outbox.append(message)

    async def keep(self) -> None:
        """Connects, and connects again, until cancelled.

        Raises:
            SupervisorFailed: it cannot be started.
        """
        while True:
            connection = await self._dial()
            self._lost.clear()
            await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=connection)
            await self._lost.wait()
            self.ready.clear()
            if not self._may_restart:
                return
            log.warning("supervisor_lost")

    async def shut_down(self, *, stop_tasks: bool, seconds: float) -> None:
        """Tells it to end and waits until it has."""
        self._may_restart = False
        self.say({"op": "shutdown", "stop_tasks": stop_tasks})
        await clock.wait_for_event(self._lost, seconds)
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=1)

    def leave(self) -> None:
        """Goes without a word; the supervisor stays."""
        self._may_restart = False
        if self._transport is not None:
            self._flush()
            self._transport.close()

    async def _dial(self) -> socket.socket:
        deadline = clock.boottime_micros() + round(_PATIENCE_SECONDS * 1e6)
        while clock.boottime_micros() < deadline:
            try:
                connection = wire.dial(str(self._data_dir))
            except OSError:
                self._restart_if_dead()
                await clock.sleep(_LOOK_EVERY_SECONDS)
            else:
                connection.setblocking(False)
                return connection
        raise SupervisorFailed(f"the supervisor does not answer; see {self._data_dir / _LOG_NAME}")

    def _restart_if_dead(self) -> None:
        code = None if self._process is None else self._process.poll()
        if self._process is not None and code is None:
            return
        if code is not None and code > 0:
            raise SupervisorFailed(f"the supervisor ended with code {code}; see {self._data_dir / _LOG_NAME}")
        self._process = start_supervisor(self._data_dir)

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The door is open."""
        self._transport = cast("asyncio.Transport", transport)
        self._reader = wire.FrameReader()
        self._outbox.clear()
        self._transport.write(wire.encode([{"op": "hello", "version": wire.VERSION}]))

    def data_received(self, data: bytes) -> None:
        """Something was said."""
        for message in self._reader.feed(data):
            self._on_message(message)
            if message["op"] == "welcome":
                self.ready.set()

    def connection_lost(self, error: Exception | None) -> None:
        """It is gone, or we are."""
        del error
        self._transport = None
        self._lost.set()

    def _flush(self) -> None:
        messages, self._outbox = self._outbox, []
        if messages and self._transport is not None and not self._transport.is_closing():
            self._transport.write(wire.encode(messages))
            if any(message["op"] == "start" for message in messages):
                failpoints.hit("link.assign.passed")
