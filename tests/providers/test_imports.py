"""Clouds' libraries are large: who does not use a cloud does not load its library."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tools.gen_protos import ROOT

CLOUDS = {"boto3", "botocore", "google.cloud", "google.api_core", "kubernetes_asyncio", "aiohttp"}


@pytest.mark.parametrize("module", ["styx_server.app", "styx_server.serve", "styx_server.providers.kubernetes"])
def test_the_server_loads_no_library_of_a_cloud(module: str) -> None:
    program = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert set(loaded.stdout.split()) & CLOUDS == set()


def test_a_provider_that_is_made_and_not_used_loads_nothing() -> None:
    program = (
        "import sys\n"
        "from styx_server.providers.kubernetes import KubernetesProvider, KubernetesSettings\n"
        "KubernetesProvider(KubernetesSettings())\n"
        "print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert set(loaded.stdout.split()) & CLOUDS == set()
