"""A server as a process that can be killed and started again at the same place, and what processes cost."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from styx.locate import read_endpoint
from styx_agent import clock
from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
PROFILE = "profile.out"
_START_SECONDS = 180.0
_TICKS = os.sysconf("SC_CLK_TCK")


class StormServer:
    """One replica."""

    def __init__(self, data_dir: Path, environment: Mapping[str, str]) -> None:
        self._data_dir = data_dir
        self._environment = {"PATH": os.environ["PATH"], "HOME": str(data_dir), **environment}
        self._ports = (free_port(), free_port())
        self._process: subprocess.Popen[bytes] | None = None
        data_dir.mkdir(parents=True)

    @property
    def url(self) -> str:
        """Its address, the same in each of its lives."""
        return f"http://127.0.0.1:{self._ports[1]}"

    @property
    def pid(self) -> int:
        """The process that runs."""
        assert self._process is not None
        return self._process.pid

    def start(self, *, profile: bool = False) -> None:
        """Starts it; with `profile` it writes where its time went when it is stopped in order."""
        grpc_port, http_port = map(str, self._ports)
        wrapper = ["-m", "cProfile", "-o", str(self._data_dir / PROFILE)] if profile else []
        argv = [sys.executable, *wrapper, "-m", "styx_server", "--data-dir", str(self._data_dir), "--die-with-parent"]
        argv += ["--grpc-port", grpc_port, "--http-port", http_port, "--log-format", "json"]
        with (self._data_dir.parent / f"{self._data_dir.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                argv, cwd=ROOT, env=self._environment, stdin=subprocess.DEVNULL, stderr=log
            )

    async def answers(self) -> None:
        """Waits until it serves.

        Raises:
            TimeoutError: it never did.
        """
        assert self._process is not None
        deadline = clock.boottime_micros() + round(_START_SECONDS * 1e6)
        while True:
            endpoint = read_endpoint(self._data_dir)
            if endpoint is not None and endpoint.pid == self._process.pid:
                return
            if self._process.poll() is not None or clock.boottime_micros() > deadline:
                raise TimeoutError(f"the server of {self._data_dir} does not come up; see its log beside the folder")
            await clock.sleep(0.05)

    def kill(self) -> None:
        """`kill -9`."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """Stops it in order."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self.kill()


def peak_bytes(pid: int) -> int:
    """The most memory that a process ever had in use."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def cpu_seconds(pid: int) -> float:
    """What a process has taken, and its children that ended."""
    return sum(map(int, _stat(pid)[11:15])) / _TICKS


def cpu_seconds_below(pid: int) -> float:
    """What a process has taken, and its children, those that ended and those that live."""
    total = cpu_seconds(pid)
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and parent_of(int(entry.name)) == pid:
            total += cpu_seconds(int(entry.name))
    return total


def parent_of(pid: int) -> int:
    """Its parent; 0 when it is gone."""
    try:
        return int(_stat(pid)[1])
    except OSError:
        return 0


def _stat(pid: int) -> list[str]:
    # The name of the program may have spaces and brackets in it; fields are counted from behind it.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
