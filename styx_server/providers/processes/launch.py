"""How the agent of an order is started on this computer: its command line and its environment.

Next: `folder.py`, where it is kept for the keeper.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from styx_server.core.machines.instance import RentOrder

_HANDED_ON = frozenset(
    {
        "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
        "HOME",
        "LANG",
        "LD_LIBRARY_PATH",
        "LOGNAME",
        "PATH",
        "PYTHONPATH",
        "SSL_CERT_DIR",
        "SSL_CERT_FILE",
        "TMPDIR",
        "TZ",
        "USER",
        "VIRTUAL_ENV",
    }
)
"""A machine knows nothing of the server that rented it: no token, no database, no cloud's keys."""


def base_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What every process of a machine may know of this computer."""
    return {name: value for name, value in environ.items() if name in _HANDED_ON or name.startswith("LC_")}


def agent_argv(order: RentOrder, home: Path) -> tuple[str, ...]:
    """The command line of an agent that offers what the order says, whatever this computer has."""
    size, boot = order.offer.size, order.boot
    return (
        # -P: the directory that somebody happens to stand in is no place to import from.
        *(sys.executable, "-P", "-m", "styx_agent"),
        *("--server-url", ",".join(boot.server_urls)),
        *("--data-dir", str(home)),
        *("--name", boot.agent_name),
        *("--cpus", f"{size.cpus_milli / 1000:g}"),
        *("--memory", str(size.memory_bytes)),
        *("--gpus", f"{size.gpu_name or 'none'}:{size.gpu_count}"),
        *("--on-exit", "stop", "--die-with-parent", "--log-format", "json"),
    )


def agent_environment(order: RentOrder, notice: Path) -> dict[str, str]:
    """The environment of an agent. The token is here and not in the arguments, which everybody may read."""
    return base_environment() | {
        "STYX_JOIN_TOKEN": order.boot.join_token,
        "STYX_AGENT_PREEMPTION_NOTICE": str(notice),
    }
