"""Builds the link and runs it: the one place that knows every part.

Order matters here: the supervisor is started before gRPC is imported, and at the end it is the last to be told. Next:
`link.py`, and `supervisor/main.py` for the other process.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from styx_agent import clock, facts
from styx_agent.config import Settings
from styx_agent.errors import AgentError, AgentRemoved, AlreadyRunning, BadSettings
from styx_agent.eviction import Eviction
from styx_agent.hearing import Hearing
from styx_agent.journal import Journal
from styx_agent.ledger import Ledger
from styx_agent.renewal import Renewal
from styx_agent.supervisor.wire import Message
from styx_agent.supervisor_client import SupervisorClient

if TYPE_CHECKING:
    from styx_agent.link import Link

log = structlog.get_logger(__name__)

_LOCK_NAME = "link.lock"
_STOP_GRACE_MICROS = 10_000_000
_STOP_SECONDS = 12.0
_DELIVERY_SECONDS = 5.0
_SHUTDOWN_SECONDS = 15.0
_LOOK_EVERY_SECONDS = 0.02


class App:
    """One agent process."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stop = asyncio.Event()
        self._starts_again = False
        self._hurry = asyncio.Event()
        self._supervisor = SupervisorClient(settings.data_dir, self._on_supervisor)
        self._ledger = Ledger(self._supervisor.say)
        self._hearing = Hearing(self._ledger)
        self._renewal = Renewal(self._ledger)
        self._eviction = Eviction(settings.preemption_notice, self._ledger)
        self._supervisor.prepare()
        self._journal = Journal(settings.data_dir)

    def _on_supervisor(self, message: Message) -> None:
        self._hearing.take(message)
        if message["op"] == "welcome":
            self._renewal.on_welcome(message)
            self._eviction.tell_supervisor()

    async def run(self) -> bool:
        """Runs until a signal, or until going on makes no sense; whether to start again in its place.

        Raises:
            AgentError: going on makes no sense.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        if not os.isatty(2):  # on a terminal it means that the terminal has gone, and we go too
            loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        from styx_agent.link import Link  # imports gRPC

        link = Link(
            self._settings,
            facts.look(self._settings),
            journal=self._journal,
            ledger=self._ledger,
            supervisor=self._supervisor,
        )
        self._eviction.start(link.set_draining)
        try:
            async with asyncio.TaskGroup() as group:
                keeper = group.create_task(self._supervisor.keep())
                talking = group.create_task(self._talk(link))
                await self._stop.wait()
                if not self._starts_again:
                    await self._leave(link)
                talking.cancel()
                keeper.cancel()
        except BaseExceptionGroup as causes:
            raise _agent_error(causes) from None
        finally:
            self._eviction.stop()
            self._supervisor.leave()
        return self._starts_again

    def _on_signal(self) -> None:
        self._starts_again = False
        if self._stop.is_set():
            self._hurry.set()
        self._eviction.on_signal()
        self._stop.set()

    def _on_hangup(self) -> None:
        """An installed upgrade takes over."""
        if not self._stop.is_set():
            self._starts_again = True
            self._stop.set()

    async def _talk(self, link: Link) -> None:
        try:
            await link.run()
        except AgentRemoved as removed:
            # Nobody will take an end from here any more, and elsewhere these tasks may soon run again.
            log.warning("removed", reason=str(removed), attempts=len(self._ledger.live_fences()))
            await self._stop_tasks()
            await self._supervisor.shut_down(stop_tasks=True, seconds=_SHUTDOWN_SECONDS)
            raise

    async def _leave(self, link: Link) -> None:
        log.info("stopping", on_exit=self._settings.on_exit, attempts=len(self._ledger))
        await self._eviction.last_look()
        if self._ledger.notice is not None:
            await self._eviction.see_off(lambda: link.is_connected, self._hurry)
        elif self._settings.on_exit == "stop":
            link.set_draining(True)
            await self._stop_tasks()
            await self._deliver(link)
        await link.leave("the agent was told to stop")
        if self._supervisor.ready.is_set() and (self._settings.on_exit == "stop" or not len(self._ledger)):
            await self._supervisor.shut_down(stop_tasks=self._settings.on_exit == "stop", seconds=_SHUTDOWN_SECONDS)

    async def _stop_tasks(self) -> None:
        self._supervisor.say({"op": "stop_all", "cause": "PREEMPT", "grace_micros": _STOP_GRACE_MICROS})
        until = clock.boottime_micros() + round(_STOP_SECONDS * 1e6)
        while self._ledger.live_fences() and clock.boottime_micros() < until:
            if await clock.wait_for_event(self._hurry, _LOOK_EVERY_SECONDS):
                self._supervisor.say({"op": "stop_all", "cause": "PREEMPT", "grace_micros": 0})
                self._hurry.clear()

    async def _deliver(self, link: Link) -> None:
        until = clock.boottime_micros() + round(_DELIVERY_SECONDS * 1e6)
        while link.is_connected and self._ledger.owes and clock.boottime_micros() < until:
            if await clock.wait_for_event(self._hurry, _LOOK_EVERY_SECONDS):
                return


def run(settings: Settings) -> None:
    """The process.

    Raises:
        AgentError: it cannot run, or cannot go on.
    """
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    try:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise BadSettings(f"the data folder {settings.data_dir} cannot be made: {error.strerror}") from None
    with _lock(settings.data_dir):
        asyncio.run(_run(settings))


async def _run(settings: Settings) -> None:
    if await App(settings).run():
        _start_again()


def _start_again() -> None:
    """Becomes the installed program, with the same arguments. No Goodbye was said, and the supervisor stays.

    Raises:
        AgentError: the program is not there any more.
    """
    log.info("starting_again", program=sys.executable, arguments=len(sys.orig_argv) - 1)
    # Until the new program listens, a second signal must not end it.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - a shell would change the words
    except OSError as error:
        raise AgentError(f"{sys.executable} cannot be started again: {error.strerror}") from None


@contextlib.contextmanager
def _lock(data_dir: Path) -> Iterator[None]:
    fd = os.open(data_dir / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise AlreadyRunning(
            f"another agent uses the data directory {data_dir}; stop it, or give this one its own with --data-dir"
        ) from None
    try:
        yield
    finally:
        os.close(fd)


def _agent_error(causes: BaseExceptionGroup[BaseException]) -> BaseException:
    matching = causes.subgroup(AgentError)
    if matching is None:
        return causes
    error: BaseException = matching
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
