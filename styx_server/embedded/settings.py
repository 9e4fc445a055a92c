"""How the embedded PostgreSQL is set: values only. Every one that is not PostgreSQL's own default says why."""

from __future__ import annotations

from collections.abc import Mapping

MAX_CONNECTIONS = 100

_ALWAYS = {
    # Reached through a socket in a private folder, and no other way.
    "listen_addresses": "",
    "port": "5432",
    "unix_socket_permissions": "0700",
    "max_connections": str(MAX_CONNECTIONS),
    "shared_buffers": "128MB",
    # An answer that was given survives a power cut.
    "synchronous_commit": "on",
    "max_wal_size": "1GB",
    "min_wal_size": "80MB",
    # The statements are short and the machine is shared with tasks: no helper processes, no compiling, no surprises.
    "max_parallel_workers_per_gather": "0",
    "jit": "off",
    "huge_pages": "off",
    # The cluster must not change with the caller's environment.
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
    # The log is for the day something breaks, and statements may hold what users typed.
    "log_destination": "stderr",
    "logging_collector": "off",
    "log_line_prefix": "%m [%p] ",
    "log_min_messages": "warning",
    "log_min_error_statement": "panic",
    "log_checkpoints": "off",
}

# Processes that mostly sleep need not wake up five times a second. The WAL writer matters to asynchronous commits only.
_IDLE = {"bgwriter_delay": "10s", "wal_writer_delay": "10s", "update_process_title": "off"}

# For data that nobody will miss: tests. It still survives the death of a process, only not that of the machine.
_CARELESS = {"fsync": "off", "full_page_writes": "off"}


def settings(*, major: int, fsync: bool, extra: Mapping[str, str]) -> dict[str, str]:
    """Settings for the command line, the later ones winning: always, idle, careless, `extra`."""
    chosen = _ALWAYS | _IDLE
    if major >= 18:
        # Three I/O workers for a database of this size are three processes too many.
        chosen["io_method"] = "sync"
    if not fsync:
        chosen |= _CARELESS
    return chosen | dict(extra)


def as_flags(chosen: Mapping[str, str]) -> list[str]:
    """Settings as `postgres` takes them on its command line."""
    return [flag for name, value in chosen.items() for flag in ("-c", f"{name}={value}")]


def initdb_flags(*, major: int, fsync: bool) -> list[str]:
    """Flags for a cluster that sorts the same on every machine and lets nobody in without the password."""
    # The builtin provider (17 and newer) does not change with the C library; before it, the C locale sorts the same.
    sorts = ["--locale-provider=builtin", "--locale=C.UTF-8"] if major >= 17 else ["--no-locale"]
    flags = ["--username=styx", "--encoding=UTF8", *sorts, "--auth=scram-sha-256", "--no-instructions"]
    return flags if fsync else [*flags, "--no-sync"]
