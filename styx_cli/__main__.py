"""The program `styx` (and `styx-cli`, the same): parses the words, runs one command, exits with a documented code."""

from __future__ import annotations

import gc
import io
import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; never returns and never shows a traceback, unless STYX_DEBUG is set."""
    # Importing makes many objects and no garbage; looking for it would be a third of the cost of a short command.
    gc.set_threshold(100_000)
    # gRPC's C core would write its own log lines between the task's output and ours.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
    from styx_cli.exits import guarded
    from styx_cli.main import cli
    from styx_cli.settings import Settings

    # Who closed one of our streams wants nothing from it; what we write must not land in a file that gets its number.
    sys.stdout = sys.stdout or _nowhere()
    sys.stderr = sys.stderr or _nowhere()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that cannot show a sign shows another one instead of stopping the program.
            stream.reconfigure(errors="replace")
    settings = Settings()
    name = os.path.basename(sys.argv[0]) if sys.argv[0] else "styx"  # noqa: PTH119 - pathlib costs more than this

    def work() -> object:
        return cli.main(
            args=list(arguments) if arguments is not None else None,
            prog_name=name if name in ("styx", "styx-cli") else "styx",
            complete_var="_STYX_COMPLETE",
            standalone_mode=False,
            obj=settings,
        )

    sys.exit(guarded(work, settings))


def _nowhere() -> io.TextIOWrapper:
    return io.TextIOWrapper(open(os.devnull, "wb"), write_through=True)  # noqa: PTH123 - open until we end


if __name__ == "__main__":
    main()
