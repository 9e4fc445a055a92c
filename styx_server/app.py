"""The composition root: builds everything, runs it in one task group, and stops it in reverse. Decides nothing.

The only file that knows rooms which do not know each other.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import structlog
import uvicorn

from styx_server import VERSION
from styx_server.clock import SystemClock
from styx_server.config import Settings
from styx_server.core.errors import StyxError
from styx_server.core.placement.backlog import Waiting
from styx_server.core.placement.ledger import Ledger
from styx_server.core.states import OutcomeKind, TaskState
from styx_server.core.task import AgentId, Fence, Outcome, TaskId
from styx_server.embedded import EmbeddedPostgres
from styx_server.ids import new_secret, new_uuid
from styx_server.loops.reap import PERIOD_SECONDS, Reaper
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
from styx_server.store.database import Database, connect, migrate_database
from styx_server.store.partitions import make_partitions
from styx_server.supervise import Wake, drain, repeat
from styx_server.telemetry import Metrics
from styx_server.transport.agent_service import AgentService, AgentUseCases
from styx_server.transport.auth import Guard
from styx_server.transport.server import GrpcServer
from styx_server.transport.styx_service import StyxService, UseCases
from styx_server.web.app import make_app

_log = structlog.get_logger()

_STOP_GRACE_SECONDS = 3.0


class StartError(Exception):
    """The server cannot start; the message says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Identity:
    deployment_id: UUID
    replica_id: UUID


class App:
    """One server process, built and wired, not yet running."""

    def __init__(self, database: Database, identity: _Identity) -> None:
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
            Parties(scheduling=self.scheduling, reports=self.reports),
        )
        self.submission = Submission(database, self.shapes, self.clock, on_stored=self._tasks_stored)
        self.tasks = Tasks(
            database,
            self.shapes,
            scheduling=self.scheduling,
            registry=self.registry,
            on_change=self._changed,
            on_cancelled=self.metrics.tasks_ended.labels(TaskState.CANCELLED.name).inc,
        )
        self.feed = Feed(database, self.tasks)
        self.intake = LogIntake(database, self.streams, self.clock, on_stored=self.metrics.log_bytes.inc)
        self.logs = LogReading(database, self.streams, on_follow=self.registry.follow)
        self.agents = Agents(
            database, self.clock, scheduling=self.scheduling, ledger=self.ledger, registry=self.registry
        )
        self.information = ServerInformation(
            database,
            self.clock,
            agents=self.agents,
            version=VERSION,
            deployment_id=identity.deployment_id,
            replica_id=identity.replica_id,
        )
        self.reaper = Reaper(database, self.registry, self.reports, self.clock)
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
            )
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
            repeat("reap", self.reaper.once, wake=Wake(), period_seconds=PERIOD_SECONDS, clock=self.clock),
            repeat("lost_orders", self.reaper.lost_orders, wake=Wake(), period_seconds=30.0, clock=self.clock),
            repeat("silence", self._watch_silence, wake=Wake(), period_seconds=5.0, clock=self.clock),
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


async def serve(settings: Settings) -> None:
    """Runs a server until SIGTERM or SIGINT.

    Raises:
        StartError: it cannot start.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    async with contextlib.AsyncExitStack() as stack:
        embedded = None if settings.database_url else EmbeddedPostgres(settings.data_dir)
        if embedded is not None:
            await embedded.start()
            stack.push_async_callback(embedded.stop)
        database = await _connect(settings, embedded)
        stack.push_async_callback(database.close)
        await _run(settings, database, embedded, stop)


async def _run(settings: Settings, database: Database, embedded: EmbeddedPostgres | None, stop: asyncio.Event) -> None:
    row = await database.fetch_row("get_deployment")
    assert row is not None
    identity = _Identity(deployment_id=UUID(str(row["id"])), replica_id=new_uuid())
    app = App(database, identity)
    await app.access.ensure_admin(_admin_token(settings))
    await make_partitions(database, app.clock.now())
    await database.execute("disconnect_all", replica_id=identity.replica_id)
    await app.scheduling.lead(identity.replica_id)
    server = app.grpc_server()
    async with asyncio.TaskGroup() as group:
        work = app.start_work(group)
        if embedded is not None:
            work.append(group.create_task(embedded.keep_running()))
        try:
            grpc_port = await _listen(server, settings)
            http, listener = _http_server(settings, app, grpc_port)
            web = group.create_task(http.serve(sockets=[listener]))
            await _announce(settings, app, server, grpc_port, int(listener.getsockname()[1]))
            await asyncio.wait([group.create_task(stop.wait()), web], return_when=asyncio.FIRST_COMPLETED)
            _log.info("server_stopping")
            app.health.stopping = True
            _endpoint_file(settings).unlink(missing_ok=True)
            await server.stop(_STOP_GRACE_SECONDS)
            http.should_exit = True
            await web
        finally:
            stop.set()
            for task in work:
                task.cancel()
    _log.info("server_stopped")


async def _connect(settings: Settings, embedded: EmbeddedPostgres | None) -> Database:
    address: dict[str, Any] = dict(embedded.dsn.arguments()) if embedded else {"dsn": settings.database_url}
    try:
        await migrate_database(**address)
        return await connect(**address)
    except StyxError as error:
        raise StartError(f"{error}; check --database-url") from error


def _admin_token(settings: Settings) -> str:
    """The administrator's token, from the settings or the data folder; made at the first start."""
    path = settings.data_dir / "admin.token"
    if settings.admin_token:
        return settings.admin_token
    if path.exists():
        return path.read_text("utf-8").strip()
    token = f"styx_admin_{new_secret()}"
    # On disk before the database knows it: a token that nobody can read again would lock everybody out.
    handle = os.open(path.with_suffix(".new"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(token + "\n")
        file.flush()
        os.fsync(file.fileno())
    path.with_suffix(".new").rename(path)
    return token


async def _listen(server: GrpcServer, settings: Settings) -> int:
    tls = (Path(settings.tls_cert), Path(settings.tls_key)) if settings.tls else None
    try:
        return await server.start(settings.host, settings.grpc_port, tls)
    except (RuntimeError, OSError) as error:
        raise StartError(
            f"cannot listen for gRPC on {settings.host}:{settings.grpc_port} ({error}); "
            "another program has the port, or the address is not this machine's: choose --grpc-port (0: any free one)"
        ) from error


class _Uvicorn(uvicorn.Server):
    """An HTTP server that leaves signals to us."""

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        """Signals are handled in `serve`."""
        yield


def _http_server(settings: Settings, app: App, grpc_port: int) -> tuple[_Uvicorn, socket.socket]:
    config = uvicorn.Config(
        make_app(app.health, app.metrics_text, lambda: _discovery(settings, app, grpc_port)),
        host=settings.host,
        port=settings.http_port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=1,
        lifespan="off",
        ws="none",
        ssl_certfile=settings.tls_cert or None,
        ssl_keyfile=settings.tls_key or None,
    )
    try:
        listener = config.bind_socket()
    except SystemExit:
        raise StartError(
            f"cannot listen for HTTP on {settings.host}:{settings.http_port}; another program has the port, "
            "or the address is not this machine's: choose --http-port (0: any free one)"
        ) from None
    return _Uvicorn(config), listener


def _discovery(settings: Settings, app: App, grpc_port: int) -> dict[str, Any]:
    return {
        "grpc_address": settings.grpc_advertise or None,
        "grpc_port": grpc_port,
        "tls": settings.tls,
        "version": VERSION,
        "deployment_id": str(app.identity.deployment_id),
        "api": ["styx.v1"],
    }


async def _announce(settings: Settings, app: App, server: GrpcServer, grpc_port: int, http_port: int) -> None:
    await server.set_serving(True)
    # An address that stands for all of them is no address to dial.
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104
    host = f"[{reachable}]" if ":" in reachable else reachable
    document = {
        "http": f"{'https' if settings.tls else 'http'}://{host}:{http_port}",
        "grpc": f"{host}:{grpc_port}",
        "tls": settings.tls,
        "pid": os.getpid(),
        "version": VERSION,
        "deployment_id": str(app.identity.deployment_id),
    }
    path = _endpoint_file(settings)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(document, indent=2) + "\n", "utf-8")
    fresh.rename(path)
    _log.info("server_ready", http=document["http"], grpc=document["grpc"], replica=str(app.identity.replica_id))


def _endpoint_file(settings: Settings) -> Path:
    return settings.data_dir / "endpoint.json"
