"""Stand-ins for agents: processes that start in no time, have a child, and end when they are told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from styx_server.providers.processes.folder import MachineFolder
from styx_server.providers.processes.room import start_keeper

WITH_A_CHILD = "#!/bin/sh\nsleep 3600 &\nwait\n"
ALONE = "#!/bin/sh\nexec sleep 3600\n"


class StandIns:
    """Starts keepers whose agents are stand-ins.

    Attributes:
        changes: to how machines are run, from the next on.
    """

    def __init__(self, folder: Path, program: str = WITH_A_CHILD) -> None:
        self._program = folder / "styx_agent-stand-in"
        self.changes: Mapping[str, Any] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self._program.write_text(program)
        self._program.chmod(0o755)

    def start(self, folder: MachineFolder, lock: int, *words: str) -> None:
        """As `start_keeper`."""
        path = folder.path / "launch.json"
        if path.exists():
            launch = json.loads(path.read_text())
            argv = [str(self._program), "--data-dir", str(folder.agent)]
            path.write_text(json.dumps({**launch, "argv": argv, **self.changes}))
        start_keeper(folder, lock, *words)
