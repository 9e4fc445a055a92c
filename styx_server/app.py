"""The composition root: builds everything and wires it. Decides nothing.

The only file that knows rooms which do not know each other. `serve.py` opens the ports around it, and closes them.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from uuid import UUID

from styx_server import VERSION
from styx_server.clock import SystemClock
from styx_server.core.lease import USUAL_TERMS, LeaseTerms
from styx_server.core.placement.backlog import Waiting
from styx_server.core.placement.ledger import Ledger
from styx_server.core.states import OutcomeKind, TaskState
from styx_server.core.task import AgentId, Fence, Outcome, TaskId
from styx_server.loops.reap import Reaper
from styx_server.services.access import Access
from styx_server.services.agents import Agents
from styx_server.services.assigning import Assigning, Outward
from styx_server.services.feed import Feed
from styx_server.services.greeting import Greeting
from styx_server.services.health import Health
from styx_server.services.info import ServerInformation
from styx_server.services.log_intake import LogIntake
from styx_server.services.log_reading import LogReading
from styx_server.services.log_streams import LogStreams
from styx_server.services.reports import AttemptOver, Reports
from styx_server.services.scheduling import Scheduling
from styx_server.services.session_registry import SessionRegistry
from styx_server.services.sessions import Parties, Sessions
from styx_server.services.shapes import Shapes
from styx_server.services.submission import Submission
from styx_server.services.tasks import Tasks
from styx_server.store.database import Database
from styx_server.store.partitions import make_partitions
from styx_server.supervise import Wake, drain, repeat
from styx_server.telemetry import Metrics
from styx_server.transport.agent_service import AgentService, AgentUseCases
from styx_server.transport.auth import Guard
from styx_server.transport.server import GrpcServer
from styx_server.transport.styx_service import StyxService, UseCases


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Which database this is, and which process."""

    deployment_id: UUID
    replica_id: UUID


class App:
    """One server process, built and wired, not yet running."""

    def __init__(self, database: Database, identity: Identity, terms: LeaseTerms = USUAL_TERMS) -> None:
        self.terms = terms
        self.clock = SystemClock()
        self.identity = identity
        self.database = database
        self.metrics = Metrics()
        self.wake_scheduler = Wake()
        self.shapes = Shapes(database)
        self.streams = LogStreams(database)
        self.registry = SessionRegistry()
        self.ledger = Ledger()
        self.health = Health(database)
        self.access = Access(database, self.clock)
        self.scheduling = Scheduling(
            database,
            self.shapes,
            self.ledger,
            Assigning(
                database,
                self.ledger,
                self.registry,
                Outward(on_undelivered=self._undelivered, on_change=self._changed),
            ),
            self.wake_scheduler,
        )
        database.on_lost = self.scheduling.doubt
        self.reports = Reports(database, self.shapes, self.clock, on_over=self._attempts_over, on_change=self._changed)
        self.sessions = Sessions(
            database,
            self.clock,
            self.registry,
            Greeting(database, self.shapes, identity.replica_id),
            Parties(scheduling=self.scheduling, reports=self.reports, terms=terms),
        )
        self.submission = Submission(database, self.shapes, self.clock, on_stored=self._tasks_stored)
        self.tasks = Tasks(
            database,
            self.shapes,
            scheduling=self.scheduling,
            registry=self.registry,
            on_change=self._changed,
            on_cancelled=self._cancelled,
        )
        self.feed = Feed(database, self.tasks)
        self.intake = LogIntake(database, self.streams, self.clock, on_stored=self.metrics.log_bytes.inc)
        self.logs = LogReading(database, self.streams, on_follow=self.registry.follow)
        self.agents = Agents(
            database, self.clock, scheduling=self.scheduling, ledger=self.ledger, registry=self.registry, terms=terms
        )
        self.information = ServerInformation(
            database,
            self.clock,
            agents=self.agents,
            version=VERSION,
            deployment_id=identity.deployment_id,
            replica_id=identity.replica_id,
        )
        self.reaper = Reaper(database, self.registry, self.reports, self.clock, terms)
        self._over: asyncio.Queue[AttemptOver] = asyncio.Queue()
        self._unsent: asyncio.Queue[tuple[AgentId, list[tuple[TaskId, Fence]]]] = asyncio.Queue()

    def grpc_server(self) -> GrpcServer:
        """The gRPC port, not yet listening."""
        public = StyxService(
            UseCases(
                submission=self.submission,
                tasks=self.tasks,
                feed=self.feed,
                logs=self.logs,
                agents=self.agents,
                information=self.information,
            ),
            self.terms,
        )
        agents = AgentService(
            AgentUseCases(
                sessions=self.sessions,
                registry=self.registry,
                reports=self.reports,
                intake=self.intake,
                agents=self.agents,
            ),
            self.clock,
            deployment_id=self.identity.deployment_id,
            replica_id=self.identity.replica_id,
            terms=self.terms,
        )
        guard = Guard(self.access, self.health, lambda method, result: self.metrics.calls.labels(method, result).inc())
        return GrpcServer(guard, public, agents)

    async def metrics_text(self) -> bytes:
        """Metrics as Prometheus reads them."""
        self.metrics.tasks_waiting.set(self.scheduling.waiting)
        self.metrics.sessions.set(len(self.registry.all()))
        return self.metrics.text()

    def start_work(self, group: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """Starts every loop and every group commit."""
        loops = [
            repeat("schedule", self._schedule, wake=self.wake_scheduler, period_seconds=1.0, clock=self.clock),
            repeat("reap", self.reaper.once, wake=Wake(), period_seconds=self.terms.look_seconds, clock=self.clock),
            repeat("lost_orders", self.reaper.lost_orders, wake=Wake(), period_seconds=30.0, clock=self.clock),
            repeat(
                "silence", self._watch_silence, wake=Wake(), period_seconds=self.terms.look_seconds, clock=self.clock
            ),
            repeat("partitions", self._make_partitions, wake=Wake(), period_seconds=3600.0, clock=self.clock),
            repeat("seal", self.intake.seal_leftovers, wake=Wake(), period_seconds=60.0, clock=self.clock),
            drain("after_ends", self._over, self._after_end, self.clock),
            drain("undelivered", self._unsent, self._end_undelivered, self.clock),
            self.submission.commits.run(),
            self.reports.commits.run(),
            self.sessions.beats.run(),
            self.intake.commits.run(),
            self._measure_lag(),
        ]
        return [group.create_task(loop) for loop in loops]

    def _changed(self) -> None:
        self.feed.wake()

    def _cancelled(self, task_ids: list[TaskId]) -> None:
        self.metrics.tasks_ended.labels(TaskState.CANCELLED.name).inc(len(task_ids))
        for task_id in task_ids:
            self.streams.notify(task_id)

    def _tasks_stored(self, tasks: list[Waiting]) -> None:
        self.metrics.tasks_submitted.inc(len(tasks))
        self.scheduling.tasks_wait(tasks)
        self.feed.wake()

    def _attempts_over(self, over: list[AttemptOver]) -> None:
        self.scheduling.attempts_over(item.fence for item in over)
        self.scheduling.tasks_wait(item.requeued for item in over if item.requeued is not None)
        for item in over:
            if item.task_state.ended:
                self.metrics.tasks_ended.labels(item.task_state.name).inc()
            if item.logs:
                self._over.put_nowait(item)
            else:
                self.registry.attempt_over(item.agent_id, item.fence, output_complete=True)
                self.streams.notify(item.task_id)

    async def _after_end(self, item: AttemptOver) -> None:
        def complete() -> None:
            self.registry.attempt_over(item.agent_id, item.fence, output_complete=True)

        if not await self.intake.finish((item.task_id, item.attempt, item.fence), item.logs, complete):
            self.registry.attempt_over(item.agent_id, item.fence, output_complete=False)

    def _undelivered(self, agent_id: AgentId, attempts: list[tuple[TaskId, Fence]]) -> None:
        self._unsent.put_nowait((agent_id, attempts))

    async def _end_undelivered(self, unsent: tuple[AgentId, list[tuple[TaskId, Fence]]]) -> None:
        agent_id, attempts = unsent
        outcome = Outcome(kind=OutcomeKind.REJECTED, message="the agent's connection ended before it was sent")
        await self.reports.end_many(agent_id, [(task_id, fence, outcome) for task_id, fence in attempts])

    async def _schedule(self) -> float | None:
        return await self.scheduling.round(self.clock.now().timestamp())

    async def _watch_silence(self) -> float | None:
        self.sessions.watch_silence()
        return None

    async def _make_partitions(self) -> float | None:
        await make_partitions(self.database, self.clock.now())
        return None

    async def _measure_lag(self) -> None:
        while True:
            before = self.clock.monotonic()
            await self.clock.sleep(1.0)
            self.metrics.loop_lag.observe(max(0.0, self.clock.monotonic() - before - 1.0))
