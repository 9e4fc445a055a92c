"""Ends every machine below a folder: `python -m styx_server.providers.processes end DIR`, for who takes it all down.

Returns when nothing is left of them. Next: `room.py`.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from styx_server import clock
from styx_server.core.machines.instance import MachineState
from styx_server.providers.ports import ProviderError
from styx_server.providers.processes.room import MachineRoom

_LOOK_SECONDS = 0.1


def main() -> None:
    """Exit codes: 0 nothing is left; 1 something cannot be ended; 2 it was not called as above."""
    if len(sys.argv) != 3 or sys.argv[1] != "end":
        print("usage: python -m styx_server.providers.processes end DIR", file=sys.stderr)
        sys.exit(2)
    try:
        count = asyncio.run(_end(MachineRoom(Path(sys.argv[2]), name="machine")))
    except ProviderError as error:
        print(error.message, file=sys.stderr)
        sys.exit(1)
    print(f"ended {count} machines")


async def _end(room: MachineRoom) -> int:
    live = sum(machine.state is not MachineState.ENDED for machine in room.machines())
    room.end_all()
    while any(machine.state is not MachineState.ENDED for machine in room.machines()):
        await clock.sleep(_LOOK_SECONDS)
    return live


if __name__ == "__main__":
    main()
