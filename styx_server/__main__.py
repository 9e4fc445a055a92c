"""`styx-server`: runs the control plane.

`styx-server database` runs the embedded database alone, for several servers on one machine; `styx-server check-config`
shows the settings and where each came from; `styx-server bundle` packs the agent for rented machines.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import os
import signal
import sys
from collections.abc import Coroutine
from dataclasses import fields
from typing import Final, NoReturn

import structlog

from styx import failpoints
from styx_server.config import ConfigError, Settings, Sourced, load

# Spawning children next to gRPC's threads is safe without its fork handlers, and they warn about every one.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

_log = structlog.get_logger()

_SECRET: Final = ("admin_token", "database_url")
_USAGE_ERROR: Final = 2
_PR_SET_PDEATHSIG: Final = 1
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_KEPT_BYTES: Final = 8 << 20
_MAPPED_BYTES: Final = 2 << 20


def main(arguments: list[str] | None = None) -> None:
    """Entry point of the console script."""
    words = sys.argv[1:] if arguments is None else arguments
    order = words[0] if words[:1] in (["check-config"], ["database"], ["bundle"]) else "serve"
    variants: list[tuple[str, str]] = []
    if order == "bundle":
        variants, words = _variants(words)
    try:
        sourced = load(words if order == "serve" else words[1:], os.environ)
        armed = failpoints.arm(os.environ)
    except (ConfigError, failpoints.BadFailpoints) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(_USAGE_ERROR) from None
    if order == "check-config":
        _show(sourced)
        return
    if order == "bundle":
        _bundle(sourced.settings, variants)
        return
    _run(order, sourced.settings, armed)


def _run(order: str, settings: Settings, armed: list[str]) -> None:
    from styx_server.core.errors import StyxError
    from styx_server.embedded import EmbeddedPostgresError
    from styx_server.serve import StartError, serve
    from styx_server.store.migrate import MigrationError
    from styx_server.telemetry import configure_logging

    if settings.die_with_parent:
        _die_with_parent()
    configure_logging(settings.log_format, settings.log_level)
    if armed:
        _log.warning("failpoints_armed", names=armed)
    # What was imported stays: collections need not walk it again and again. Nor what comes with each agent: with
    # thousands of them a full collection stops everything for a second and more, and it found next to nothing.
    gc.freeze()
    gc.set_threshold(100_000, 50, 1_000)
    _keep_freed_memory()
    try:
        asyncio.run(_host(settings) if order == "database" else serve(settings))
    except BaseExceptionGroup as group:
        _fail(group.exceptions[0])
    except (StartError, StyxError, EmbeddedPostgresError, MigrationError, OSError) as error:
        _fail(error)


def _host(settings: Settings) -> Coroutine[None, None, None]:
    from styx_server.embedded.alone import host

    return host(settings.data_dir)


def _fail(error: BaseException) -> None:
    from styx_server.serve import StartError

    if not isinstance(error, (StartError, OSError)) and type(error).__module__.startswith("builtins"):
        raise error
    _fail_plainly(error)


def _fail_plainly(error: BaseException) -> NoReturn:
    print(f"error: {error}", file=sys.stderr)
    raise SystemExit(1)


def _keep_freed_memory() -> None:
    """Lets pieces of output use the memory of those before them.

    By itself glibc returns blocks of their size to the kernel and asks for new ones, and that the kernel fills each new
    page with zeros takes longer than everything else that is done to the piece.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def _die_with_parent() -> None:
    """Asks Linux for SIGTERM when the parent ends; elsewhere the wish is passed over."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            raise SystemExit("error: the parent process has ended already")


def _variants(words: list[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """For which Pythons and processors libraries are wanted; the other words are settings."""
    parser = argparse.ArgumentParser(
        prog="styx-server bundle",
        description="Packs the agent for rented machines, and fetches its libraries for other versions of Python. "
        "Takes the settings of `styx-server` too.",
        allow_abbrev=False,
    )
    parser.add_argument("--python", metavar="VERSIONS", default="", help="with commas, for example 3.11,3.12,3.13")
    parser.add_argument("--arch", metavar="NAMES", default="x86_64", help="x86_64, arm64 or both (default x86_64)")
    options, others = parser.parse_known_args(words[1:])
    pythons = [python for python in options.python.split(",") if python]
    return [(python, arch) for python in pythons for arch in options.arch.split(",")], [words[0], *others]


def _bundle(settings: Settings, variants: list[tuple[str, str]]) -> None:
    from styx_server.bundle import BundleError, Shelf, wheels

    shelf = Shelf(settings.data_dir)
    try:
        for python, arch in variants:
            wheels.fetch(shelf.wheels, python, arch)
        digest = shelf.digest()
    except (BundleError, OSError) as error:
        _fail_plainly(error)
    print(f"{digest}  {' '.join(shelf.variants())}")


def _show(sourced: Sourced) -> None:
    for field in fields(Settings):
        if field.name not in sourced.sources:
            continue
        value = getattr(sourced.settings, field.name)
        shown = "***" if field.name in _SECRET and value else ",".join(value) if isinstance(value, tuple) else value
        print(f"{field.name:16} {shown!s:40} {sourced.sources[field.name]}")
    for name, table in sourced.settings.provider_tables.items():
        for key, value in table.items():
            print(f"[{name}] {key:{max(0, 13 - len(name))}} {value!s:40} file")


if __name__ == "__main__":
    main()
