"""The command `styx-agent`. Reads settings, sets up the log, turns what ends the agent into an exit code.

Next: `app.py`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

import structlog

from styx import failpoints
from styx_agent import config, log_format
from styx_agent.errors import AgentError, BadSettings

log = structlog.get_logger(__name__)

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Exit codes: 0 told to end; 1 cannot run here; 2 wrong settings or a refused join token; 3 removed."""
    try:
        settings = config.load(sys.argv[1:], os.environ)
        log_format.set_up(settings.log_format, settings.log_level)
        _arm_failpoints()
        if settings.die_with_parent:
            _die_with_parent()
        from styx_agent import app

        app.run(settings)
    except AgentError as error:
        print(f"styx-agent: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def _arm_failpoints() -> None:
    try:
        names = failpoints.arm(os.environ)
    except failpoints.BadFailpoints as error:
        raise BadSettings(str(error)) from None
    if names:
        log.warning("failpoints_armed", names=names)


def _die_with_parent() -> None:
    """SIGTERM when the parent ends; at once if it has ended already."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
