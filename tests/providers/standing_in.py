"""Stand-ins for agents: processes that start in no time, and end when they are told."""

from __future__ import annotations

import json
from pathlib import Path

from styx_server.providers.processes.folder import MachineFolder
from styx_server.providers.processes.room import start_keeper

_PROGRAM = "#!/bin/sh\nexec sleep 3600\n"


class StandIns:
    """Starts keepers whose agents are stand-ins."""

    def __init__(self, program: Path) -> None:
        self._program = program
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text(_PROGRAM)
        program.chmod(0o755)

    def start(self, folder: MachineFolder, lock: int, *words: str) -> None:
        """As `start_keeper`."""
        path = folder.path / "launch.json"
        if path.exists():
            launch = json.loads(path.read_text())
            path.write_text(json.dumps({**launch, "argv": [str(self._program)]}))
        start_keeper(folder, lock, *words)
