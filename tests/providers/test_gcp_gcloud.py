"""The double, seen by Google's own command line: what that cannot work with, the double has wrong."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from styx_server.core.machines.instance import MachineState
from tests.providers.gcp_market import DEPLOYMENT, GcpMarket, order

GCLOUD = shutil.which("gcloud")

pytestmark = [
    pytest.mark.skipif(GCLOUD is None, reason="gcloud is not installed, so nobody else looks at the double"),
    # It takes seconds to start, and is started four times.
    pytest.mark.timeout(300),
]


async def gcloud(gcp: GcpMarket, folder: Path, *words: str) -> Any:
    """What `gcloud compute ...` answers, as JSON."""
    environment = {
        **os.environ,
        "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE": f"{gcp.double.url}/compute/v1/",
        "CLOUDSDK_AUTH_DISABLE_CREDENTIALS": "true",
        "CLOUDSDK_CONFIG": str(folder),
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "true",
        "CLOUDSDK_CORE_PROJECT": gcp.double.project,
    }
    arguments = ("compute", "instances", *words, "--format=json")
    process = await asyncio.create_subprocess_exec(
        str(GCLOUD), *arguments, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return json.loads(out or b"[]")


async def test_gcloud_sees_our_machines_and_we_do_not_see_its(gcp: GcpMarket, tmp_path: Path) -> None:
    ours = await gcp.provider.rent(order("styx-a1"))
    place = "--zone=us-central1-a"
    image = ("--image-family=debian-12", "--image-project=debian-cloud")
    spot = ("--provisioning-model=SPOT", "--instance-termination-action=DELETE")
    created = await gcloud(
        gcp, tmp_path, "create", "vm1", place, "--machine-type=e2-small", *image, *spot, "--boot-disk-type=pd-balanced"
    )
    assert [each["name"] for each in created] == ["vm1"]
    listed = await gcloud(gcp, tmp_path, "list", f"--filter=labels.styx-deployment={DEPLOYMENT}")
    assert [each["name"] for each in listed] == [ours.cloud_id]
    assert listed[0]["scheduling"]["instanceTerminationAction"] == "DELETE"
    assert [each.cloud_id for each in await gcp.provider.list(DEPLOYMENT, "us-central1")] == [ours.cloud_id]
    await gcloud(gcp, tmp_path, "delete", ours.cloud_id, place)
    left = await gcp.provider.list(DEPLOYMENT, "us-central1")
    assert all(each.state is MachineState.ENDED for each in left)
    assert {each["name"] for each in gcp.double.ledger if "_gone" not in each} == {"vm1"}
