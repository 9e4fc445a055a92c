"""One server process from start to stop: database, token, ports, the file that says where they are. Decides nothing.

Everything is started in order and stopped in reverse. What runs in between is built by `app.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import socket
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import structlog
import uvicorn

from styx_server import VERSION
from styx_server.bundle import BundleError, Shelf
from styx_server.config import Settings
from styx_server.core.errors import StyxError, Unavailable
from styx_server.core.lease import LeaseTerms
from styx_server.core.machines.terms import MachineTerms
from styx_server.embedded import EmbeddedPostgres
from styx_server.ids import new_secret, new_uuid
from styx_server.machinery import Rental
from styx_server.providers.registry import REMOTE, BadProviderSettings, make_provider, regions_of, types_of
from styx_server.services.identity import Identity
from styx_server.services.leadership import replica_number
from styx_server.services.machines.belonging import NotOurs, claim_deployment
from styx_server.services.machines.intents import Reach
from styx_server.store.database import Database
from styx_server.store.opening import DatabaseUnusable, open_database
from styx_server.store.partitions import make_partitions
from styx_server.transport.server import GrpcServer
from styx_server.web.app import make_app

if TYPE_CHECKING:
    from styx_server.app import App

_log = structlog.get_logger()

_STOP_GRACE_SECONDS = 3.0


class StartError(Exception):
    """The server cannot start; the message says why and what to do."""


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
        async with asyncio.TaskGroup() as group:
            # Half of a start is loading this program; the database starts meanwhile.
            group.create_task(asyncio.to_thread(import_module, "styx_server.app"))
            if embedded is not None:
                await embedded.start()
                stack.push_async_callback(embedded.stop)
        from styx_server.app import App

        gc.freeze()  # what was loaded just now stays as well
        replica_id = new_uuid()
        address: dict[str, Any] = dict(embedded.dsn.arguments()) if embedded else {"dsn": settings.database_url}
        database = await _connect(settings, address, replica_id)
        stack.push_async_callback(database.close)
        row = await database.fetch_row("get_deployment")
        assert row is not None
        identity = Identity(deployment_id=UUID(str(row["id"])), replica_id=replica_id, address=address)
        await _belong(settings, database, str(row["id"]))
        rental = _rental(settings)
        for provider in rental.providers.values():
            stack.push_async_callback(provider.close)
        app = App(database, identity, LeaseTerms.scaled(settings.lease_scale), rental)
        await _run(settings, app, embedded, stop)


async def _belong(settings: Settings, database: Database, deployment_id: str) -> None:
    """Does not rent for a deployment that this server was not meant for."""
    remote = [name for name in settings.providers if name in REMOTE]
    row = await database.fetch_row("has_rented", providers=remote) if remote else None
    if row is None:
        return
    file = settings.data_dir / "deployment.id"
    try:
        claim_deployment(deployment_id, rented=row["rented"], said=settings.deployment_id, file=file)
    except NotOurs as error:
        raise StartError(str(error)) from None


def _rental(settings: Settings) -> Rental:
    remote = [name for name in settings.providers if name in REMOTE]
    if remote and not settings.http_addresses:
        raise StartError(
            f"machines of {', '.join(remote)} must find the way back to this server: say with --http-addresses "
            "how they reach it, for example https://styx.example.com:8080"
        )
    tables = settings.provider_tables
    try:
        providers = {name: make_provider(name, settings.data_dir, tables.get(name, {})) for name in settings.providers}
    except BadProviderSettings as error:
        raise StartError(f"{error} (in the file that --config names)") from None
    return Rental(
        providers=providers,
        regions={name: regions_of(name, tables.get(name, {})) for name in providers},
        machine_types={name: types_of(name, tables.get(name, {})) for name in providers},
        terms=MachineTerms.scaled(settings.lease_scale),
    )


async def _run(settings: Settings, app: App, embedded: EmbeddedPostgres | None, stop: asyncio.Event) -> None:
    app.retention.days = settings.retention_days
    await app.access.ensure_admin(_admin_token(settings))
    await make_partitions(app.database, app.clock.now())
    await app.enter()
    server = app.grpc_server()
    async with asyncio.TaskGroup() as group:
        work = app.start_work(group)
        if embedded is not None:
            work.append(group.create_task(embedded.keep_running()))
        try:
            grpc_port = await _listen(server, settings)
            shelf = Shelf(settings.data_dir)
            http, listener = _http_server(settings, app, grpc_port, shelf)
            web = group.create_task(http.serve(sockets=[listener]))
            url = await _announce(settings, app, server, grpc_port, int(listener.getsockname()[1]))
            work.append(group.create_task(_begin_to_rent(settings, app, shelf, url)))
            await asyncio.wait([group.create_task(stop.wait()), web], return_when=asyncio.FIRST_COMPLETED)
            _log.info("server_stopping")
            app.health.stopping = True
            # What it says of other servers stays true.
            if len(settings.http_addresses) <= 1:
                _endpoint_file(settings).unlink(missing_ok=True)
            with contextlib.suppress(Unavailable):
                await app.leave()
            await server.stop(_STOP_GRACE_SECONDS)
            http.should_exit = True
            await web
        finally:
            stop.set()
            for task in work:
                task.cancel()
    _log.info("server_stopped")


async def _connect(settings: Settings, address: dict[str, Any], replica_id: UUID) -> Database:
    try:
        return await open_database(
            wait_seconds=settings.database_wait,
            accept_unsafe=settings.unsafe_database,
            replica=replica_number(replica_id),
            **address,
        )
    except StyxError as error:
        raise StartError(f"{error}; check --database-url") from error
    except DatabaseUnusable as error:
        raise StartError(str(error)) from error


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


def _http_server(settings: Settings, app: App, grpc_port: int, shelf: Shelf) -> tuple[_Uvicorn, socket.socket]:
    config = uvicorn.Config(
        make_app(
            app.health,
            app.metrics_text,
            lambda: _discovery(settings, app, grpc_port),
            shelf.find,
        ),
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
    # At once: the address is told before uvicorn gets to it.
    listener.listen(config.backlog)
    return _Uvicorn(config), listener


def _discovery(settings: Settings, app: App, grpc_port: int) -> dict[str, Any]:
    return {
        "grpc_address": settings.grpc_advertise or None,
        "grpc_port": grpc_port,
        "http_addresses": list(settings.http_addresses),
        "tls": settings.tls,
        "version": VERSION,
        "deployment_id": str(app.identity.deployment_id),
        "api": ["styx.v1"],
    }


async def _begin_to_rent(settings: Settings, app: App, shelf: Shelf, url: str) -> None:
    """From now on machines find their way back, with what they have to install."""
    digest = ""
    if any(name in REMOTE for name in settings.providers):
        try:
            digest = await asyncio.to_thread(shelf.digest)
        except (BundleError, OSError) as error:
            _log.error("bundle_not_packed", error=str(error), action="nothing is rented")
            return
    app.machinery.intents.reach = Reach(server_urls=settings.http_addresses or (url,), bundle_sha256=digest)


async def _announce(settings: Settings, app: App, server: GrpcServer, grpc_port: int, http_port: int) -> str:
    """Tells everybody that this server is ready; returns its address."""
    await server.set_serving(True)
    # An address that stands for all of them is no address to dial.
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104
    host = f"[{reachable}]" if ":" in reachable else reachable
    document: dict[str, Any] = {
        "http": f"{'https' if settings.tls else 'http'}://{host}:{http_port}",
        "grpc": f"{host}:{grpc_port}",
        "http_addresses": list(settings.http_addresses),
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
    return str(document["http"])


def _endpoint_file(settings: Settings) -> Path:
    return settings.data_dir / "endpoint.json"
