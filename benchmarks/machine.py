"""What the figures were found on: the machine, the versions, and how busy others kept it meanwhile."""

from __future__ import annotations

import os
import platform
import re
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_TICKS = os.sysconf("SC_CLK_TCK")
_PACKAGES = ("grpcio", "protobuf", "asyncpg")
BUSY_CORES = 0.2
"""Of a machine of which others use more than this, figures are ratios at best."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Processors:
    """What all processors have done since the machine started, in seconds."""

    busy_seconds: float
    stolen_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What went on beside a scenario.

    Attributes:
        others_cores: processors that other programs of this machine kept busy, on average.
        stolen_cores: processors that the machine below this one did not give.
    """

    seconds: float
    others_cores: float
    stolen_cores: float

    @property
    def is_busy(self) -> bool:
        """Whether somebody else was at work."""
        return self.others_cores + self.stolen_cores > BUSY_CORES


class LoadMeter:
    """Measures the load from its making on.

    Our own part is what this process and its ended children have used, so whatever was started has to have ended.
    """

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._before = processors()
        self._ours = _own_seconds()

    def read(self) -> Load:
        """The load until now."""
        seconds = max(time.monotonic() - self._began, 1e-9)
        now, ours = processors(), _own_seconds() - self._ours
        busy = now.busy_seconds - self._before.busy_seconds
        return Load(
            seconds=seconds,
            others_cores=max(0.0, busy - ours) / seconds,
            stolen_cores=(now.stolen_seconds - self._before.stolen_seconds) / seconds,
        )


def parse_processors(text: str) -> Processors:
    """Reads the first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal."""
    user, nice, system, _idle, _waiting, irq, softirq, stolen = map(int, text.split()[1:9])
    return Processors(
        busy_seconds=(user + nice + system + irq + softirq) / _TICKS,
        stolen_seconds=stolen / _TICKS,
    )


def processors() -> Processors:
    """What the processors have done so far."""
    return parse_processors(Path("/proc/stat").read_text().partition("\n")[0])


def facts() -> dict[str, object]:
    """The machine, as it is before the first scenario."""
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "model": parse_model(Path("/proc/cpuinfo").read_text()),
        "kernel": platform.release(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load_before": list(os.getloadavg()),
        "fdatasync_ms": round(_fdatasync_ms(), 3),
    }


def parse_model(cpuinfo: str) -> str:
    """The name of the processor in /proc/cpuinfo; some kinds do not say."""
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return found[1].strip() if found else platform.machine()


def versions() -> dict[str, str]:
    """Of what was measured. A commit ends in `+` when the tree has changes that are not in it."""
    changed = "+" if _git("status", "--porcelain", "--untracked-files=no") else ""
    return {
        "styx": metadata.version("styx-control"),
        "commit": (_git("rev-parse", "--short=12", "HEAD") or "unknown") + changed,
        "python": platform.python_version(),
        **{package: metadata.version(package) for package in _PACKAGES},
        "postgresql": _postgresql(),
    }


def as_dict(load: Load) -> Mapping[str, float]:
    """For JSON."""
    return {
        "seconds": round(load.seconds, 1),
        "others_cores": round(load.others_cores, 2),
        "stolen_cores": round(load.stolen_cores, 2),
    }


def _own_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _fdatasync_ms() -> float:
    """What a commit waits for at least, where the scenarios have their files."""
    spans = []
    with tempfile.TemporaryFile() as file:
        for _ in range(50):
            file.write(b"\0" * 8192)
            file.flush()
            began = time.perf_counter()
            os.fdatasync(file.fileno())
            spans.append(time.perf_counter() - began)
    return statistics.median(spans) * 1000


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=_ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _postgresql() -> str:
    from styx_server.embedded.binaries import find_binaries

    binaries = find_binaries()
    done = subprocess.run([binaries.postgres, "--version"], capture_output=True, text=True, check=True)
    return done.stdout.split()[-1]
