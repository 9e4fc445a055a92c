"""Drives a real supervisor process over its socket, as the link does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from styx_agent.supervisor import wire
from styx_agent.supervisor.spool import SEGMENT_BYTES
from tests.support.until import until

_ROOT = str(Path(__file__).resolve().parents[2])
_START = f"import sys; sys.path.insert(0, {_ROOT!r}); from styx_agent.supervisor.main import main; main()"
PATIENCE_SECONDS = 20.0
SECOND = 1_000_000


def boottime_micros() -> int:
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000


class SupervisorDriver:
    """One data directory; supervisors come and go in it."""

    def __init__(self, directory: Path, *flags: str) -> None:
        self.directory = directory
        self.flags = flags
        self.process: subprocess.Popen[bytes] | None = None
        self.socket: socket.socket | None = None
        self.attempts: dict[int, dict[str, Any]] = {}
        self.states: dict[int, list[str]] = {}
        self.streams: dict[tuple[int, str], dict[str, Any]] = {}
        self.welcome: dict[str, Any] = {}
        self._next_fence = 0

    def launch(self, *, window_micros: int = 60 * SECOND, extend: bool = True) -> None:
        """Starts a supervisor and connects."""
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _START, "--data-dir", str(self.directory), *self.flags],
            stdin=subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"], "STYX_SECRET": "must not leak"},
            start_new_session=True,
        )
        self.connect()
        if extend:
            self.extend(window_micros=window_micros)

    def connect(self) -> None:
        """A new link."""

        self.hang_up()

        def dialled() -> bool:
            try:
                self.socket = wire.dial(str(self.directory))
            except OSError:
                return False
            return True

        until(dialled, "the supervisor answers", seconds=PATIENCE_SECONDS)
        self.reader = wire.FrameReader()
        self.welcome = {}
        self.say({"op": "hello", "version": wire.VERSION})
        self.listen(lambda: bool(self.welcome), "a welcome")

    def say(self, *messages: dict[str, Any]) -> None:
        assert self.socket is not None
        self.socket.settimeout(PATIENCE_SECONDS)
        self.socket.sendall(wire.encode(list(messages)))

    def extend(self, *, window_micros: int = 60 * SECOND, sent_micros: int | None = None) -> None:
        sent = boottime_micros() if sent_micros is None else sent_micros
        self.say({"op": "extend", "sent_micros": sent, "window_micros": window_micros})

    def start(self, command: str = "", *, argv: list[str] | None = None, fence: int | None = None, **order: Any) -> int:
        """Orders a start; gives the fence."""
        self._next_fence += 1
        fence = self._next_fence if fence is None else fence
        env = {"PATH": os.environ["PATH"], **order.pop("env", {})}
        message = {"op": "start", "fence": fence, "task_id": fence, "attempt": 1, "env": env}
        self.say({**message, "argv": argv or ["/bin/sh", "-c", command], **order})
        return fence

    def stop(self, fence: int, cause: str = "CANCEL", grace_micros: int | None = None) -> None:
        self.say({"op": "stop", "fence": fence, "cause": cause, "grace_micros": grace_micros})

    def free(self, fence: int, stream: str, below: int) -> None:
        self.say({"op": "free", "fence": fence, "stream": stream, "below": below})

    def ended(self, fence: int) -> dict[str, Any]:
        """Waits for the end of an attempt."""
        self.listen(lambda: self.state(fence) == "ENDED", f"the end of {fence}")
        return self.attempts[fence]

    def outcome(self, fence: int) -> dict[str, Any]:
        return dict(self.ended(fence)["outcome"])

    def running(self, fence: int) -> None:
        self.listen(lambda: self.state(fence) == "RUNNING", f"the start of {fence}")

    def written(self, fence: int, size: int, stream: str = "stdout") -> None:
        """Waits until a stream has that many bytes."""
        self.listen(lambda: self.streams.get((fence, stream), {}).get("end", 0) >= size, f"{size} bytes of {fence}")

    def state(self, fence: int) -> str | None:
        return self.attempts.get(fence, {}).get("state")

    def log(self, fence: int, stream: str = "stdout") -> dict[str, Any]:
        """What the end says of a stream."""
        return next(log for log in self.ended(fence)["logs"] if log["stream"] == stream)

    def output(self, fence: int, stream: str = "stdout") -> bytes:
        """What is in the spool; dropped ranges are NUL bytes."""
        files = (self.directory / "attempts" / str(fence)).glob(f"{stream}.*")
        data = b""
        for path in sorted(files, key=lambda path: int(path.name.partition(".")[2])):
            data = data.ljust(int(path.name.partition(".")[2]), b"\0") + path.read_bytes()
            assert len(path.read_bytes()) <= SEGMENT_BYTES
        return data

    def listen(self, condition: Callable[[], bool], what: str, seconds: float = PATIENCE_SECONDS) -> None:
        """Takes in what the supervisor says until a condition holds."""
        assert self.socket is not None
        deadline = time.monotonic() + seconds
        while not condition():
            left = deadline - time.monotonic()
            assert left > 0, f"not within {seconds:g} s: {what}"
            self.socket.settimeout(left)
            try:
                data = self.socket.recv(1 << 20)
            except TimeoutError:
                continue
            assert data, f"the supervisor hung up before: {what}"
            for message in self.reader.feed(data):
                self._take(message)

    def _take(self, message: dict[str, Any]) -> None:
        match message["op"]:
            case "welcome":
                self.welcome = message
                for attempt in message["attempts"]:
                    self._take({"op": "changed", "attempt": attempt})
            case "changed":
                attempt = message["attempt"]
                self.attempts[attempt["fence"]] = attempt
                self.states.setdefault(attempt["fence"], []).append(attempt["state"])
                for stream in attempt.get("streams", ()):
                    self.streams[attempt["fence"], stream["stream"]] = stream
            case "grown":
                self.streams[message["fence"], message["stream"]] = message

    def hang_up(self) -> None:
        """The link leaves."""
        if self.socket is not None:
            self.socket.close()
            self.socket = None

    def kill(self) -> None:
        """SIGKILL to the supervisor."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.hang_up()

    def close(self) -> None:
        """Ends whatever is there."""
        self.hang_up()
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(PATIENCE_SECONDS)


def sleepers(tag: str) -> list[int]:
    """Live `sleep` processes of a test."""
    return processes(f"sleep {tag}", start=True)


def processes(text: str, *, start: bool = False) -> list[int]:
    """Live processes whose command line holds a text, or starts with it, except this one."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            state = (path.parent / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if (line.startswith(text) if start else text in line) and state != "Z" and int(path.parent.name) != os.getpid():
            found.append(int(path.parent.name))
    return found
