"""Moves what a command writes from its pipe into a spool, and does what the policy says when that is full.

Next: `attempt.py`, which owns two of these.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable

from styx import failpoints
from styx_agent.supervisor import clock
from styx_agent.supervisor.reactor import READ, Reactor, Timer
from styx_agent.supervisor.spool import Spool

_PIPE_BYTES = 1 << 20
_F_SETPIPE_SZ, _F_GETPIPE_SZ = 1031, 1032
_RETRY_MICROS = 200_000
_GIVE_UP_MICROS = 30 * clock.SECOND
# One thread, so one buffer serves every pipe.
_BUFFER = memoryview(bytearray(256 << 10))


class Capture:
    """The reading end of one pipe.

    Args:
        grown: called when there is news.
    """

    def __init__(self, reactor: Reactor, spool: Spool, *, drop: bool, grown: Callable[[], None]) -> None:
        self.spool = spool
        self._reactor = reactor
        self._drop = drop
        self._grown = grown
        self._fd, self.write_end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._fd, False)
        self._capacity = _enlarge(self._fd)
        self._dropping = False
        self._ended = False
        self._held = b""
        self._watching = False
        self._retry: Timer | None = None

    def begin(self) -> None:
        """Reads from now on."""
        self._watch()

    def close_write_end(self) -> None:
        """Leaves the pipe to the command; from then on its end can be seen."""
        if self.write_end >= 0:
            os.close(self.write_end)
            self.write_end = -1

    def freed(self) -> None:
        """There may be room again."""
        if self._fd >= 0 and not self._held and self.spool.room > 0:
            self._watch()

    def drain(self, done: Callable[[], None]) -> None:
        """Takes what is left in the pipe, whatever the room, and closes; calls `done`, perhaps only after a while.

        The command is gone, so this is at most a pipe full.
        """
        self._unwatch()
        self.close_write_end()
        left = 0 if self._ended else self._capacity
        while self._fd >= 0 and not self._held and left > 0:
            count = self._read(_BUFFER)
            if count <= 0:
                break
            left -= count
            self._keep(_BUFFER[:count])
        if self._held:
            self._drain_later(done, clock.boottime_micros() + _GIVE_UP_MICROS)
            return
        self._finish()
        done()

    def _on_ready(self, _events: int) -> None:
        room = self.spool.room
        if room <= 0 and not self._drop:
            self._unwatch()
            return
        # Once full, full until half is free: else each ack would make room for a few bytes, and one more gap.
        self._dropping = room <= 0 or (self._dropping and room < self.spool.limit // 2)
        count = self._read(_BUFFER if self._dropping else _BUFFER[: min(room, len(_BUFFER))])
        if count == 0:
            self._ended = True
            self._unwatch()
        elif count > 0:
            if self._dropping:
                self.spool.skip(count, "spool_full")
            else:
                self._keep(_BUFFER[:count])
                failpoints.hit("supervisor.output.spooled")
            self._grown()

    def _keep(self, data: memoryview) -> None:
        start = self.spool.end
        try:
            self.spool.append(data, clock.realtime_micros())
        except OSError:
            rest = data[self.spool.end - start :]
            if self._drop:
                self.spool.skip(len(rest), "disk_error")
                return
            self._held = bytes(rest)
            self._unwatch()
            self._retry = self._reactor.call_after(_RETRY_MICROS, self._try_again)

    def _try_again(self) -> None:
        held, self._held = self._held, b""
        self._keep(memoryview(held))
        self._grown()
        if not self._held and self._fd >= 0:
            self._watch()

    def _drain_later(self, done: Callable[[], None], until_micros: int) -> None:
        if self._retry is not None:
            self._retry.cancel()

        def again() -> None:
            held, self._held = self._held, b""
            self._keep(memoryview(held))
            if self._held and clock.boottime_micros() > until_micros:
                self.spool.skip(len(self._held), "disk_error")
                self._held = b""
                self._drop = True
            if self._retry is not None:
                self._retry.cancel()
            if self._held:
                self._drain_later(done, until_micros)
            else:
                self.drain(done)

        self._retry = self._reactor.call_after(_RETRY_MICROS, again)

    def _read(self, buffer: memoryview) -> int:
        """How much came; 0 at the end of the stream, -1 when there is nothing now."""
        try:
            return os.readv(self._fd, [buffer])
        except BlockingIOError:
            return -1

    def _finish(self) -> None:
        self._unwatch()
        if self._retry is not None:
            self._retry.cancel()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self.spool.close()

    def _watch(self) -> None:
        if not self._watching:
            self._watching = True
            self._reactor.watch(self._fd, READ, self._on_ready)

    def _unwatch(self) -> None:
        if self._watching:
            self._watching = False
            self._reactor.unwatch(self._fd)


def _enlarge(fd: int) -> int:
    """Makes a pipe as large as is allowed, and returns how much it holds."""
    try:
        return fcntl.fcntl(fd, _F_SETPIPE_SZ, _PIPE_BYTES)
    except OSError:
        return fcntl.fcntl(fd, _F_GETPIPE_SZ)
