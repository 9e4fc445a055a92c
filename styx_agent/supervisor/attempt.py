"""One attempt from start to proven end.

It does what `rules.py` decides: sets up, runs, captures, stops, waits until nothing of it is left, and says how it
ended. It writes no journal and speaks to no link; `warden.py` does both for it.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from styx import failpoints
from styx_agent.supervisor import clock, rules
from styx_agent.supervisor.cgroups import Cgroup, Cgroups
from styx_agent.supervisor.deadlines import Deadlines
from styx_agent.supervisor.marks import Marks
from styx_agent.supervisor.outputs import NAMES, Outputs
from styx_agent.supervisor.reactor import Reactor
from styx_agent.supervisor.spawn import CannotStart, Launch, Spawner
from styx_agent.supervisor.wall import Wall
from styx_agent.supervisor.workplaces import Workplaces


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
    workplaces: Workplaces
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
        self.outputs: Outputs | None = None
        self._started_micros: int | None = None
        self._ended_micros: int | None = None
        self._outcome: rules.Outcome | None = None
        self._around = around
        self._times = Deadlines(around.reactor, self._lease_stop, self._tick)
        self._wall: Wall | None = None
        self._pid = 0
        self._workplace = ""
        self._in_setup = False
        self._status: int | None = None
        self._over = False
        self._start_error = ""
        self._cause: rules.Cause | None = None
        self._closing = False
        self._cpu_micros = 0
        self._max_memory_bytes = 0

    # What others ask for.

    def begin(self) -> None:
        """Starts the first process. Whatever fails becomes the outcome."""
        if self._over:
            return
        try:
            self._wall, self.outputs = wall, outputs = self._prepare()
            self._run(wall, outputs, setup=bool(self.order.setup))
        except (OSError, CannotStart) as error:
            self._start_error = str(error)
            self._main_over()
            return
        try:
            _limit_memory(wall, self._around.cgroups, self.order.memory_bytes)
        except OSError as error:  # it has begun, and must not go on without its limit
            self._start_error = f"cannot limit its memory: {error}"
            self._times.kill_by(0)
        outputs.begin()
        self.look_again()

    def stop(self, cause: rules.Cause, grace_micros: int | None = None) -> None:
        """Asks everything to end, and makes it when the grace is over. Again: only the grace can get shorter."""
        if self.state == "ENDED":
            return
        failpoints.hit("supervisor.stop.received")
        now = clock.boottime_micros()
        kill_at = now + (self.order.grace_micros if grace_micros is None else grace_micros)
        if not self._over and self._cause is None:
            self._cause = cause
            if self._wall is None:
                self._main_over()
                return
            self._set_state("STOPPING")
            if kill_at > now:
                self._wall.ask()
                failpoints.hit("supervisor.stop.asked")
        self._times.kill_by(kill_at)
        self.look_again()

    def on_exit(self, pid: int, status: int, usage: resource.struct_rusage) -> None:
        """A process that was started for this attempt has been reaped."""
        self._cpu_micros += round((usage.ru_utime + usage.ru_stime) * 1e6)
        self._max_memory_bytes = max(self._max_memory_bytes, usage.ru_maxrss * 1024)
        if pid != self._pid:
            return
        failpoints.hit("supervisor.exit.reaped")
        self._start_error = self._start_error or self._around.spawner.error_of(pid)
        self._status = status
        go_on = self._in_setup and status == 0 and self._cause is None and not self._start_error
        if go_on and self._wall is not None and self.outputs is not None:
            try:
                self._run(self._wall, self.outputs, setup=False)
            except (OSError, CannotStart) as error:
                self._start_error = str(error)
            else:
                self.look_again()
                return
        self._main_over()

    def record(self) -> None:
        """The server has stored that it has started: from now on it lives under its own limit."""
        self.recorded = True
        self.look_again()

    def look_again(self) -> None:
        """Its times have changed, or the lease that they hang on."""
        if self._wall is not None and not self._closing:
            self._times.arm(watch_for_end=self._over)

    def to_message(self) -> dict[str, Any]:
        """As the link sees it, without its streams."""
        ended = self.state == "ENDED"
        return {
            "fence": self.order.fence,
            "task_id": self.order.task_id,
            "attempt": self.order.attempt,
            "state": self.state,
            "recorded": self.recorded,
            "started_micros": self._started_micros,
            "ended_micros": self._ended_micros,
            "outcome": None if self._outcome is None else self._outcome.to_message(),
            "logs": self.outputs.logs() if ended and self.outputs is not None else [],
        }

    # Start.

    def _prepare(self) -> tuple[Wall, Outputs]:
        around, order = self._around, self.order
        if not order.workdir:
            self._workplace = around.workplaces.take()
        cgroup: Cgroup | None = None
        if around.cgroups is not None:
            cgroup = around.cgroups.make(order.fence, cpus=order.cpus)
        wall = Wall(order.fence, around.marks, cgroup, around.orphans)
        try:
            return wall, Outputs(order, self.directory, around.reactor, lambda name: around.grown(self, name))
        except OSError:
            wall.gone()  # takes the group away
            raise

    def _run(self, wall: Wall, outputs: Outputs, *, setup: bool) -> None:
        order = self.order
        stdout, stderr = outputs.write_ends
        self._pid = self._around.spawner.spawn(
            Launch(
                argv=["/bin/sh", "-c", order.setup] if setup else order.argv,
                env=order.env,
                cwd=order.workdir or self._workplace,
                stdout=stdout,
                stderr=stderr,
                mark=wall.mark,
                cgroup=wall.cgroup,
            )
        )
        failpoints.hit("supervisor.process.forked")
        self._in_setup = setup
        self._around.started(self._pid, self)
        now = clock.boottime_micros()
        # The timeout is for the command; setup gets as much again, so that it cannot hang for ever.
        self._times.timeout_at = None if order.timeout_micros is None else now + order.timeout_micros
        if not setup:
            self._started_micros = now
            outputs.leave_to_the_command()
        self._set_state("PREPARING" if setup else "RUNNING")

    # Times.

    def _lease_stop(self) -> rules.StopTimes | None:
        lease = self._around.lease()
        return None if lease is None else rules.lease_stop(lease, recorded=self.recorded, order=self.order)

    def _tick(self) -> None:
        now = clock.boottime_micros()
        if self._wall is not None and self._times.kill_is_due(now):
            self._wall.kill()
            failpoints.hit("supervisor.stop.killed")
        if self._over and self._finish_if_gone():
            return
        lease = self._times.lease_is_due(now)
        if self._times.timeout_is_due(now):
            self.stop("TIMEOUT")
        elif lease is not None:
            self.stop("LEASE", max(0, lease.kill_micros - now))
        else:
            self.look_again()

    # End.

    def _main_over(self) -> None:
        """The process that decides the outcome is gone; now the rest has to go."""
        self._over = True
        if self._finish_if_gone():
            return
        if self._times.kill_at is None and self._wall is not None:
            self._wall.ask()
            grace = min(self.order.grace_micros, rules.LEFTOVER_GRACE_MICROS)
            self._times.kill_by(clock.boottime_micros() + grace)
        self.look_again()

    def _finish_if_gone(self) -> bool:
        if self._closing:
            return True
        if self._wall is not None and not self._wall.gone():
            return False
        self._closing = True
        self._times.disarm()
        if self.outputs is None:
            self._finish()
        else:
            self.outputs.finish(self._finish)
        return True

    def _finish(self) -> None:
        for name in NAMES if self.outputs is not None else ():
            self._around.grown(self, name)
        self._outcome = rules.outcome_of(
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
        if self._outcome.kind == "START_FAILED":
            self._started_micros = None
        self._ended_micros = clock.boottime_micros()
        if self._workplace:
            self._around.workplaces.give_back(self._workplace)
        self._set_state("ENDED")

    def _set_state(self, state: rules.State) -> None:
        self.state = state
        self._around.changed(self)


def _limit_memory(wall: Wall, cgroups: Cgroups | None, limit_bytes: int) -> None:
    if limit_bytes and cgroups is not None and cgroups.limits_memory and wall.cgroup is not None:
        wall.cgroup.limit_memory(limit_bytes)
