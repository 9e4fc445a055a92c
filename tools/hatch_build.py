"""Build hook: makes the wire code before the wheel (or the editable install) is put together."""

from __future__ import annotations

import sys
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ProtoBuildHook(BuildHookInterface[Any]):
    """Runs `tools/gen_protos.py` for every kind of build."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by the builder before it gathers files."""
        del version, build_data
        sys.path.insert(0, self.root)
        from tools.gen_protos import generate

        generate()
