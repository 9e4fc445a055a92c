"""The real cloud-init boots a machine of each cloud, from what that cloud's metadata service says."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import pytest

from styx_server.core.machines.offer import MachineSize
from styx_server.core.machines.user_data import user_data
from styx_server.embedded import PostgresAddress
from tests.machines.conftest import home_at
from tests.support.cloud_machine import cloud_machine
from tests.support.until import soon

_SOURCES = {"ec2": "DataSourceEc2", "gce": "DataSourceGCE"}
SIZE = MachineSize(cpus_milli=2000, memory_bytes=8 << 30)


@pytest.mark.parametrize("cloud", ["ec2", "gce"])
async def test_from_user_data_to_the_first_line(
    cloud: str, tmp_path: Path, fitting: Path, database: PostgresAddress, capsys: pytest.CaptureFixture[str]
) -> None:
    with cloud_machine(tmp_path / "machine", cloud) as machine:
        async with home_at(tmp_path, fitting, database, "--host", machine.host, "--insecure") as home:
            boot = await home.boot(server_urls=(home.http,))
            begun = time.monotonic()
            machine.start(user_data(boot, SIZE, life_seconds=3600))
            agent = await home.joined()
            joined = time.monotonic()
            assert agent.name == "i9"
            assert await home.output("echo is here") == b"is here\n"
            with capsys.disabled():
                line = f"boot to joined {joined - begun:.1f} s, to the first line {time.monotonic() - begun:.1f} s"
                sys.stdout.write(f"\ncloud-init on {cloud}: {line}\n")
            await soon(lambda: machine.says("booted"), "cloud-init has come to its end")
            assert machine.says(f"Datasource {_SOURCES[cloud]}")
            assert [call for call in machine.calls if " status " not in call] == [
                "systemctl daemon-reload",
                "systemctl enable styx-dead-man.timer",
                "systemctl start --no-block styx-dead-man.timer",
                "systemctl daemon-reload",
                "systemctl enable styx-agent.service",
                "systemctl start --no-block styx-agent.service",
            ]
            await asyncio.to_thread(machine.close)
