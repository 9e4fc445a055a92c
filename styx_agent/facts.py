"""What this machine has and is. Looks, decides nothing. Next: `codec.py`, which puts it on the wire."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from styx_agent.config import Settings

_CGROUP_ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One accelerator; `index` as CUDA_VISIBLE_DEVICES counts."""

    index: int
    name: str
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What is offered to tasks, and what people may want to know."""

    cpus: float
    memory_bytes: int
    disk_bytes: int
    gpus: tuple[Gpu, ...]
    facts: dict[str, str]


def look(settings: Settings) -> Machine:
    """What is here; what the settings say wins."""
    return Machine(
        cpus=_cpus() if settings.cpus is None else settings.cpus,
        memory_bytes=_memory_bytes() if settings.memory_bytes is None else settings.memory_bytes,
        disk_bytes=shutil.disk_usage(settings.data_dir).free,
        gpus=_gpus()
        if settings.gpus is None
        else tuple(Gpu(index=index, name=name) for index, name in enumerate(settings.gpus)),
        facts={
            "os": _os_name(),
            "kernel": platform.release(),
            "arch": platform.machine(),
            "python": platform.python_version(),
            "hostname": platform.node(),
            "user": str(os.getuid()),
        },
    )


def _cpus() -> float:
    allowed = float(len(os.sched_getaffinity(0)))
    quota, _, period = _own_cgroup_value("cpu.max").partition(" ")
    if quota.isdigit() and period.strip().isdigit() and int(period) > 0:
        return min(allowed, int(quota) / int(period))
    return allowed


def _memory_bytes() -> int:
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = _own_cgroup_value("memory.max")
    return min(total, int(limit)) if limit.isdigit() else total


def _own_cgroup_value(name: str) -> str:
    """A limit of the group that this process is in, when version 2 rules here."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            if line.startswith("0::"):
                return (_CGROUP_ROOT / line[3:].strip("/") / name).read_text(encoding="ascii").strip()
    return ""


def _gpus() -> tuple[Gpu, ...]:
    """What NVIDIA's library finds; none when it, its driver or the hardware is missing."""
    try:
        import pynvml
    except ImportError:
        return ()
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return tuple(
            Gpu(
                index=index,
                name=str(pynvml.nvmlDeviceGetName(handle)),
                memory_bytes=int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
            )
            for index, handle in enumerate(handles)
        )
    except pynvml.NVMLError:
        return ()
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _os_name() -> str:
    with contextlib.suppress(OSError):
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    return "Linux"
