"""A server that rents nothing from a cloud does not load the cloud's library: it takes seconds and memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import styx_server

ROOT = Path(styx_server.__file__).parent
LIBRARIES = {"boto3", "botocore", "google.cloud", "google.auth", "google.api_core", "kubernetes_asyncio"}
PROVIDERS = [path for path in sorted((ROOT / "providers").iterdir()) if path.stem[0] != "_"]
MODULES = [
    "styx_server.serve",
    "styx_server.app",
    *(
        f"styx_server.providers.{path.stem}"
        for path in PROVIDERS
        if path.suffix == ".py" or (path / "__init__.py").exists()
    ),
]


@pytest.mark.parametrize("module", MODULES)
def test_importing_the_server_loads_no_library_of_a_cloud(module: str) -> None:
    program = f"import sys, {module}; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT.parent, timeout=60
    )
    assert LIBRARIES & set(done.stdout.split()) == set()
