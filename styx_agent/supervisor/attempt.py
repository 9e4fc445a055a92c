"""One attempt from start to proven end.

It does what `rules.py` decides: sets up, runs, captures, stops, waits until nothing of it is left, and says how it
ended. It writes no journal and speaks to no link; `warden.py` does both for it.
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from styx_agent.supervisor import clock, rules
from styx_agent.supervisor.capture import Capture
from styx_agent.supervisor.cgroups import Cgroup, Cgroups
from styx_agent.supervisor.marks import Marks
from styx_agent.supervisor.reactor import Reactor, Timer
from styx_agent.supervisor.spawn import CannotStart, Launch, Spawner
from styx_agent.supervisor.spool import Spool
from styx_agent.supervisor.wall import Wall

_FIRST_LOOK_MICROS = 1_000
_SLOWEST_LOOK_MICROS = 100_000
_KILL_AGAIN_MICROS = 200_000


@dataclass(slots=True, kw_only=True)
class Surroundings:
    """What an attempt needs of the supervisor; one for all.

    Attributes:
        orphans: live children of the supervisor that it did not start.
        started: a process is to be reaped for this attempt.
        changed: the attempt has a new state.
        grown: a stream has news.
    """

    reactor: Reactor
    spawner: Spawner
    marks: Marks
    cgroups: Cgroups | None
    lease: Callable[[], rules.Lease | None]
    orphans: Callable[[], list[int]]
    started: Callable[[int, Attempt], None]
    changed: Callable[[Attempt], None]
    grown: Callable[[Attempt, str], None]


class Attempt:
    """One command and everything that it starts."""

    def __init__(self, order: rules.StartOrder, directory: str, around: Surroundings) -> None:
        self.order = order
        self.directory = directory
        self.state: rules.State = "ACCEPTED"
        self.recorded = False
        self.started_micros: int | None = None
        self.ended_micros: int | None = None
        self.outcome: rules.Outcome | None = None
        self.spools: dict[str, Spool] = {}
        self._around = around
        self._wall: Wall | None = None
        self._captures: dict[str, Capture] = {}
        self._pid = 0
        self._in_setup = False
        self._status: int | None = None
        self._over = False
        self._start_error = ""
        self._cause: rules.Cause | None = None
        self._kill_at: int | None = None
        self._timeout_at: int | None = None
        self._killing = False
        self._look_micros = _FIRST_LOOK_MICROS
        self._timer: Timer | None = None
        self._closing = False
        self._cpu_micros = 0
        self._max_memory_bytes = 0

    # What others ask for.

    def begin(self) -> None:
        """Starts the first process. Whatever fails becomes the outcome."""
        if self._over:
            return
        try:
            self._wall = self._prepare()
            self._run(self._wall, setup=bool(self.order.setup))
        except (OSError, CannotStart) as error:
            self._start_error = str(error)
            self._main_over()
            return
        self._limit_memory(self._wall)
        for capture in self._captures.values():
            capture.begin()
        self._arm()

    def stop(self, cause: rules.Cause, grace_micros: int | None = None) -> None:
        """Asks everything to end, and makes it when the grace is over. Again: only the grace can get shorter."""
        if self.state == "ENDED":
            return
        now = clock.boottime_micros()
        grace = self.order.grace_micros if grace_micros is None else grace_micros
        if self._over or self._cause is not None:
            self._kill_by(now + grace)
            return
        self._cause = cause
        if self._wall is None:
            self._main_over()
            return
        self._set_state("STOPPING")
        self._begin_stop(self._wall, now + grace)

    def on_exit(self, pid: int, status: int, usage: resource.struct_rusage) -> None:
        """A process that was started for this attempt has been reaped."""
        self._cpu_micros += round((usage.ru_utime + usage.ru_stime) * 1e6)
        self._max_memory_bytes = max(self._max_memory_bytes, usage.ru_maxrss * 1024)
        if pid != self._pid:
            return
        self._start_error = self._around.spawner.error_of(pid)
        self._status = status
        if self._in_setup and status == 0 and self._cause is None and self._wall is not None:
            try:
                self._run(self._wall, setup=False)
            except (OSError, CannotStart) as error:
                self._start_error = str(error)
            else:
                self._arm()
                return
        self._main_over()

    def free(self, stream: str, below: int) -> None:
        """The server has everything below."""
        if stream in self.spools:
            self.spools[stream].free(below)
        if stream in self._captures:
            self._captures[stream].freed()

    def to_message(self) -> dict[str, Any]:
        """As the link sees it, without its streams."""
        return {
            "fence": self.order.fence,
            "task_id": self.order.task_id,
            "attempt": self.order.attempt,
            "state": self.state,
            "recorded": self.recorded,
            "started_micros": self.started_micros,
            "ended_micros": self.ended_micros,
            "outcome": None if self.outcome is None else self.outcome.to_message(),
            "logs": self.logs() if self.state == "ENDED" else [],
        }

    def logs(self) -> list[dict[str, Any]]:
        """What there is to say of its streams at the end; a stream without a byte is not mentioned."""
        return [spool.summary() for spool in self.spools.values() if spool.end]

    # Start.

    def _prepare(self) -> Wall:
        around, order = self._around, self.order
        os.mkdir(self.directory, 0o700)
        if not order.workdir:
            os.mkdir(f"{self.directory}/work", 0o700)
        for name in ("stdout", "stderr"):
            self.spools[name] = Spool(self.directory, name, order.spool_bytes)
            self._captures[name] = Capture(
                around.reactor,
                self.spools[name],
                drop=order.drop_when_full,
                grown=lambda name=name: around.grown(self, name),  # type: ignore[misc]
            )
        cgroup: Cgroup | None = None
        if around.cgroups is not None:
            cgroup = around.cgroups.make(order.fence, cpus=order.cpus)
        return Wall(order.fence, around.marks, cgroup, around.orphans)

    def _run(self, wall: Wall, *, setup: bool) -> None:
        order = self.order
        self._pid = self._around.spawner.spawn(
            Launch(
                argv=["/bin/sh", "-c", order.setup] if setup else order.argv,
                env=order.env,
                cwd=order.workdir or f"{self.directory}/work",
                stdout=self._captures["stdout"].write_end,
                stderr=self._captures["stderr"].write_end,
                mark=wall.mark,
                cgroup=wall.cgroup,
            )
        )
        self._in_setup = setup
        self._around.started(self._pid, self)
        now = clock.boottime_micros()
        # The timeout is for the command; setup gets as much again, so that it cannot hang for ever.
        self._timeout_at = None if order.timeout_micros is None else now + order.timeout_micros
        if not setup:
            self.started_micros = now
            for capture in self._captures.values():
                capture.close_write_end()
        self._set_state("PREPARING" if setup else "RUNNING")

    def _limit_memory(self, wall: Wall) -> None:
        cgroups = self._around.cgroups
        if self.order.memory_bytes and cgroups is not None and cgroups.limits_memory and wall.cgroup is not None:
            wall.cgroup.limit_memory(self.order.memory_bytes)

    # Stop.

    def _begin_stop(self, wall: Wall, kill_at: int) -> None:
        self._kill_at = kill_at
        if kill_at > clock.boottime_micros():
            wall.ask()
        self._arm()

    def _kill_by(self, at_micros: int) -> None:
        if not self._killing and (self._kill_at is None or at_micros < self._kill_at):
            self._kill_at = at_micros
            self._arm()

    def _tick(self) -> None:
        self._timer = None
        now = clock.boottime_micros()
        if self._kill_at is not None:
            if now >= self._kill_at and self._wall is not None:
                self._killing = True
                self._wall.kill()
                self._kill_at = now + _KILL_AGAIN_MICROS
            if self._over and self._finish_if_gone():
                return
        elif self._timeout_at is not None and now >= self._timeout_at:
            self.stop("TIMEOUT")
            return
        self._check_lease(now)
        self._arm()

    def _check_lease(self, now: int) -> None:
        lease = self._around.lease()
        times = lease and rules.lease_stop(lease, recorded=self.recorded, order=self.order)
        if not times or now < times.term_micros or self._killing:
            return
        if self._over or self._cause is not None:
            self._kill_by(times.kill_micros)
        else:
            self.stop("LEASE", max(0, times.kill_micros - now))

    def _arm(self) -> None:
        """One timer for whatever comes first. Leases only ever get longer, so one that fires early looks again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.state == "ENDED" or self._closing:
            return
        now = clock.boottime_micros()
        times: list[int] = []
        if self._kill_at is not None:
            times.append(self._kill_at)
            if self._over:
                times.append(now + self._look_micros)
                self._look_micros = min(self._look_micros * 2, _SLOWEST_LOOK_MICROS)
        elif self._timeout_at is not None:
            times.append(self._timeout_at)
        lease = self._around.lease()
        stop = lease and rules.lease_stop(lease, recorded=self.recorded, order=self.order)
        if stop and not self._killing:
            times.append(stop.term_micros if self._kill_at is None else max(stop.kill_micros, stop.term_micros))
        if times:
            self._timer = self._around.reactor.call_at(min(times), self._tick)

    # End.

    def _main_over(self) -> None:
        """The process that decides the outcome is gone; now the rest has to go."""
        self._over = True
        if self._finish_if_gone():
            return
        if self._kill_at is None and self._wall is not None:
            grace = min(self.order.grace_micros, rules.LEFTOVER_GRACE_MICROS)
            self._begin_stop(self._wall, clock.boottime_micros() + grace)
        else:
            self._arm()

    def _finish_if_gone(self) -> bool:
        if self._closing:
            return True
        if self._wall is not None and not self._wall.gone():
            return False
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        self._close_next()
        return True

    def _close_next(self) -> None:
        if self._captures:
            _, capture = self._captures.popitem()
            capture.drain(self._close_next)
            return
        for name in self.spools:
            self._around.grown(self, name)
        self.outcome = rules.outcome_of(
            rules.Ending(
                status=self._status,
                cause=self._cause,
                start_error=self._start_error,
                setup=self._in_setup,
                oom=self._wall is not None and self._wall.oom_killed(),
                cpu_micros=self._cpu_micros,
                max_memory_bytes=self._max_memory_bytes,
            )
        )
        if self.outcome.kind == "START_FAILED":
            self.started_micros = None
        self.ended_micros = clock.boottime_micros()
        with contextlib.suppress(OSError):
            os.rmdir(f"{self.directory}/work")
        self._set_state("ENDED")

    def _set_state(self, state: rules.State) -> None:
        self.state = state
        self._around.changed(self)
