"""The composition root: builds everything and wires it. Decides nothing.

The only file that knows rooms which do not know each other. `serve.py` opens the ports around it, and closes them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import cached_property
from typing import Any

from styx_server import VERSION
from styx_server.clock import SystemClock
from styx_server.core.lease import USUAL_TERMS, LeaseTerms
from styx_server.core.placement.backlog import Waiting
from styx_server.core.placement.ledger import Ledger
from styx_server.core.states import TaskState
from styx_server.core.task import AgentId, TaskId
from styx_server.desk import Behind, build_desk
from styx_server.loops.reap import Reaper
from styx_server.loops.retire import PERIOD_SECONDS as RETIRE_PERIOD_SECONDS
from styx_server.loops.retire import Retirer
from styx_server.machinery import NOTHING_RENTED, Around, Machinery, Rental, build_machinery
from styx_server.services.access import Access
from styx_server.services.agents import Agents
from styx_server.services.assigning import Assigning, Outward
from styx_server.services.delivery import PERIOD_SECONDS as DELIVERY_SECONDS
from styx_server.services.delivery import Delivery
from styx_server.services.elsewhere import Elsewhere
from styx_server.services.feed import Feed
from styx_server.services.greeting import Greeting
from styx_server.services.health import Health
from styx_server.services.identity import Identity
from styx_server.services.info import ServerInformation
from styx_server.services.interest import PERIOD_SECONDS as INTEREST_SECONDS
from styx_server.services.interest import Interest
from styx_server.services.leadership import Leadership, Role
from styx_server.services.log_intake import LogIntake
from styx_server.services.log_reading import LogReading
from styx_server.services.log_sealing import LogSealing
from styx_server.services.log_streams import LogStreams
from styx_server.services.removal import Removal
from styx_server.services.reports import AttemptOver, Reports
from styx_server.services.retention import Retention
from styx_server.services.roster import Roster
from styx_server.services.scheduling import Scheduling, Views
from styx_server.services.session_registry import SessionRegistry
from styx_server.services.sessions import Parties, Sessions
from styx_server.services.shapes import Shapes
from styx_server.services.submission import Submission
from styx_server.services.tasks import TaskNews, Tasks
from styx_server.store.bulletin import Bulletin, Kind
from styx_server.store.database import Database
from styx_server.store.partitions import make_partitions
from styx_server.supervise import Wake, drain, repeat
from styx_server.telemetry import Metrics
from styx_server.transport.agent_service import AgentService, AgentUseCases
from styx_server.transport.auth import Guard
from styx_server.transport.machine_use_cases import MachineUseCases
from styx_server.transport.server import GrpcServer
from styx_server.transport.styx_service import StyxService, UseCases


class App:
    """One server process, built and wired, not yet running."""

    def __init__(
        self,
        database: Database,
        identity: Identity,
        terms: LeaseTerms = USUAL_TERMS,
        rental: Rental = NOTHING_RENTED,
    ) -> None:
        self.terms = terms
        self.clock = SystemClock()
        self.identity = identity
        self.database = database
        self.news = News(self)
        self.retention = Retention(database, self.clock)
        self.metrics = Metrics()
        self.wake_scheduler = Wake()
        self.bulletin = Bulletin(identity.number, identity.address, self.news.noted, self.clock)
        self.shapes = Shapes(database)
        self.registry = SessionRegistry()
        self.interest = Interest(self.registry, self.clock, self.bulletin.post)
        self.streams = LogStreams(database, on_notify=self.interest.stored)
        self.ledger = Ledger()
        self.health = Health(database)
        self.access = Access(database, self.clock)
        self.scheduling = _scheduling(self)
        database.on_lost = self.scheduling.doubt
        self.reports = Reports(
            database, self.shapes, self.clock, on_over=self.news.attempts_over, on_change=self.news.changed
        )
        self.delivery = Delivery(database, self.registry, self.reports, self.clock, identity.replica_id)
        self.removal = Removal(database, self.registry, self.reports, self.news.agents_changed, terms)
        self.machinery = _machinery(self, rental)
        self.sessions = _sessions(self)
        self.submission = Submission(database, self.shapes, self.clock, on_stored=self.news.tasks_stored)
        self.tasks = Tasks(
            database,
            self.shapes,
            self.scheduling,
            self.registry,
            TaskNews(on_change=self.news.changed, on_cancelled=self.news.cancelled, on_unsent=self.news.unsent),
        )
        self.feed = Feed(database, self.tasks)
        self.sealing = LogSealing(database, self.streams, self.clock)
        self.intake = LogIntake(database, self.streams, self.clock, self.metrics.log_bytes.inc, self.sealing.complete)
        self.logs = LogReading(database, self.streams, on_follow=self.interest.follow)
        self.agents = Agents(database, self.shapes, self.clock, on_change=self.news.agents_changed, terms=terms)
        self.information = _information(self)
        self.reaper = Reaper(database, self.reports, self.clock, self.news.agents_changed, terms)
        self.leadership = _leadership(self)

    async def enter(self) -> None:
        """Joins the other servers on this database, or is the only one; leads what nobody leads.

        Raises:
            Unavailable: the database is away.
        """
        await self.bulletin.open()
        await self.leadership.once()

    async def leave(self) -> None:
        """Gives up what this server leads, so that another may take it at once.

        Raises:
            Unavailable: the database is away; another takes it when it falls silent.
        """
        await self.leadership.release()

    @cached_property
    def desk(self) -> MachineUseCases:
        """What people can ask about machines."""
        machinery = self.machinery
        behind = Behind(
            database=self.database,
            clock=self.clock,
            shapes=self.shapes,
            ends=machinery.ender,
            providers=machinery.providers,
            catalog=machinery.catalog,
            on_pools=machinery.wake_scaling,
        )
        return build_desk(behind)

    def grpc_server(self) -> GrpcServer:
        """The gRPC port, not yet listening."""
        public = StyxService(
            UseCases(
                submission=self.submission,
                tasks=self.tasks,
                feed=self.feed,
                logs=self.logs,
                agents=self.agents,
                removal=self.removal,
                information=self.information,
                machines=self.desk,
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
        server = GrpcServer(guard, public, agents)
        self.health.on_look = server.set_serving
        return server

    async def metrics_text(self) -> bytes:
        """Metrics as Prometheus reads them."""
        self.metrics.tasks_waiting.set(self.scheduling.waiting)
        self.metrics.sessions.set(len(self.registry.all()))
        return self.metrics.text()

    def start_work(self, group: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """Starts every loop and every group commit."""
        retirer = Retirer(self.database, self.registry, self.removal, on_stops=self.delivery.look_at)
        loops = [
            self._repeat("schedule", self._schedule, 1.0, self.wake_scheduler),
            self._repeat("deliver", self.delivery.once, DELIVERY_SECONDS, self.delivery.wake),
            self._repeat("lead", self.leadership.once, 2.0),
            self._repeat("interest", self.interest.once, INTEREST_SECONDS),
            self._repeat("retire", retirer.once, RETIRE_PERIOD_SECONDS),
            self._repeat("reap", self._leading("reaper", self.reaper.once), self.terms.look_seconds),
            self._repeat("health", self.health.look, 2.0),
            self._repeat("retention", self._leading("upkeep", self.retention.once), 3600.0),
            self._repeat("partitions", self._leading("upkeep", self._make_partitions), 3600.0),
            self._repeat("seal", self._leading("upkeep", self.sealing.seal_leftovers), 60.0),
            drain("after_ends", self.news.over, self.news.after_end, self.clock),
            self.bulletin.run(),
            self.submission.commits.run(),
            self.reports.commits.run(),
            self.sessions.beats.run(),
            self.intake.commits.run(),
            self.sealing.commits.run(),
            self._measure_lag(),
            *self.machinery.work(
                lambda name, once, period, wake: self._repeat(name, self._leading("scheduler", once), period, wake)
            ),
        ]
        return [group.create_task(loop) for loop in loops]

    def _repeat(
        self, name: str, once: Callable[[], Awaitable[float | None]], period_seconds: float, wake: Wake | None = None
    ) -> Coroutine[Any, Any, None]:
        return repeat(name, once, wake=wake or Wake(), period_seconds=period_seconds, clock=self.clock)

    def _leading(self, role: str, once: Callable[[], Awaitable[float | None]]) -> Callable[[], Awaitable[float | None]]:
        """A pass that only the leader makes."""

        async def pass_() -> float | None:
            return await once() if self.leadership.leads(role) else None

        return pass_

    async def _schedule(self) -> float | None:
        try:
            return await self.scheduling.round(self.clock.now().timestamp())
        except BaseException:
            self.scheduling.doubt()
            raise

    async def _make_partitions(self) -> float | None:
        await make_partitions(self.database, self.clock.now())
        return None

    async def _measure_lag(self) -> None:
        while True:
            before = self.clock.monotonic()
            await self.clock.sleep(1.0)
            self.metrics.loop_lag.observe(max(0.0, self.clock.monotonic() - before - 1.0))


class News:
    """The messenger of one server: passes what happened in one service to the others, and to other servers.

    Attributes:
        over: attempts that ended and have output.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self.over: asyncio.Queue[AttemptOver] = asyncio.Queue()

    def noted(self, sender: int, kind: Kind, ids: list[int] | None) -> None:
        """A note of another server; or, with this one's own number, that some may have been missed."""
        del sender
        match kind:
            case Kind.FEED:
                self._app.feed.wake()
                self._app.scheduling.noted()
            case Kind.AGENTS:
                self._app.scheduling.agents_changed(ids)
                self._app.delivery.look_at(ids)
            case Kind.ORDERS:
                self._app.delivery.look_at(ids)
            case Kind.LOGS:
                for task_id in [None] if ids is None else ids:
                    self._app.streams.wake(None if task_id is None else TaskId(task_id))
            case Kind.LOOKS:
                self._app.interest.heard(ids or ())

    def replicas_live(self, numbers: set[int]) -> None:
        """These servers live."""
        self._app.metrics.replicas.set(len(numbers))
        self._app.bulletin.has_readers = bool(numbers - {self._app.identity.number})

    def agents_changed(self, agent_ids: Iterable[AgentId]) -> None:
        """Sessions of these began or ended, or an operator changed their standing."""
        agent_ids = list(agent_ids)
        self._app.scheduling.agents_changed(agent_ids)
        self._app.delivery.look_at(agent_ids)
        self._app.bulletin.post(Kind.AGENTS, agent_ids)

    def unsent(self, agent_ids: Iterable[AgentId]) -> None:
        """Orders for these are stored, and their sessions are not here, or are just being replaced."""
        agent_ids = list(agent_ids)
        self._app.delivery.look_at(agent_ids)
        self._app.bulletin.post(Kind.ORDERS, agent_ids)

    def changed(self, going: Iterable[TaskId], ended: Iterable[TaskId] = ()) -> None:
        """Tasks changed, and of these some may have ended."""
        self._app.feed.changed(going, ended)
        self._app.bulletin.post(Kind.FEED)

    def cancelled(self, task_ids: list[TaskId]) -> None:
        """Waiting tasks were ended."""
        self._app.metrics.tasks_ended.labels(TaskState.CANCELLED.name).inc(len(task_ids))
        for task_id in task_ids:
            self._app.streams.notify(task_id)

    def tasks_stored(self, tasks: list[Waiting]) -> None:
        """Tasks were submitted."""
        self._app.metrics.tasks_submitted.inc(len(tasks))
        self._app.scheduling.tasks_wait(tasks)
        self.changed(task.task_id for task in tasks)

    def attempts_over(self, over: list[AttemptOver]) -> None:
        """Attempts are stored as over."""
        self._app.scheduling.attempts_over(item.fence for item in over)
        self._app.scheduling.tasks_wait(item.requeued for item in over if item.requeued is not None)
        for state, count in Counter(item.task_state for item in over).items():
            if state.ended:
                self._app.metrics.tasks_ended.labels(state.name).inc(count)
        for item in over:
            if item.logs:
                self.over.put_nowait(item)
            else:
                self._app.registry.attempt_over(item.agent_id, item.fence, output_complete=True)
                self._app.streams.notify(item.task_id)

    async def after_end(self, item: AttemptOver) -> None:
        """Output of an attempt that is over: waits for the rest, and lets go of it when it is complete."""

        def complete() -> None:
            self._app.registry.attempt_over(item.agent_id, item.fence, output_complete=True)

        if not await self._app.intake.finish((item.task_id, item.attempt, item.fence), item.logs, complete):
            self._app.registry.attempt_over(item.agent_id, item.fence, output_complete=False)


def _scheduling(app: App) -> Scheduling:
    outward = Outward(on_unsent=app.news.unsent, on_change=app.news.changed)
    views = Views(
        ledger=app.ledger,
        roster=Roster(app.database, app.shapes, app.ledger, app.clock, app.terms),
        elsewhere=Elsewhere(app.database, app.clock, app.identity.number),
    )
    assigning = Assigning(app.database, app.ledger, app.registry, outward)
    return Scheduling(app.database, app.shapes, views, assigning, app.clock, app.wake_scheduler)


def _sessions(app: App) -> Sessions:
    return Sessions(
        app.database,
        app.clock,
        app.registry,
        Greeting(app.database, app.identity.replica_id, app.terms),
        Parties(
            reports=app.reports,
            interest=app.interest,
            streams=app.streams,
            on_change=app.news.agents_changed,
            on_notice=app.machinery.eviction.take,
            terms=app.terms,
        ),
    )


def _information(app: App) -> ServerInformation:
    return ServerInformation(
        app.database,
        app.clock,
        agents=app.agents,
        version=VERSION,
        deployment_id=app.identity.deployment_id,
        replica_id=app.identity.replica_id,
    )


def _machinery(app: App, rental: Rental) -> Machinery:
    around = Around(
        database=app.database,
        clock=app.clock,
        wants=app.scheduling.wants,
        removal=app.removal,
        reports=app.reports,
        on_agents=app.news.agents_changed,
    )
    return build_machinery(around, app.identity.deployment_id, rental)


def _leadership(app: App) -> Leadership:
    roles = {
        "scheduler": Role(on_lead=app.scheduling.lead, on_resign=app.scheduling.resign),
        "reaper": Role(on_lead=lambda _term: app.reaper.begin()),
        "upkeep": Role(),
    }
    return Leadership(app.database, app.clock, app.identity.replica_id, roles=roles, on_replicas=app.news.replicas_live)
