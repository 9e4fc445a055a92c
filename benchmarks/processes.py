"""What processes use, as the kernel tells it in /proc: read once, then arithmetic on values.

A process that ends gives its processor time to the parent that waits for it. So the time of a tree is the own time of
all that live, and what each has been given.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import Usage

_TICKS = os.sysconf("SC_CLK_TCK")
_FIELD = re.compile(r"^(VmHWM|RssShmem|RssFile):\s+(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One line of the process table.

    Attributes:
        own_seconds: processor time of its own threads.
        given_seconds: that of children that ended and were waited for, with all that theirs gave them.
    """

    pid: int
    parent: int
    own_seconds: float
    given_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Main memory of a process.

    Attributes:
        peak_bytes: the most that it ever had in use.
        shared_bytes: what it has in use now together with others.
    """

    peak_bytes: int
    shared_bytes: int


def parse_stat(text: str) -> Process:
    """Reads /proc/PID/stat."""
    # The name of the program may have spaces and brackets in it, so fields are counted from behind it.
    fields = text.rpartition(")")[2].split()
    user, system, given_user, given_system = map(int, fields[11:15])
    return Process(
        pid=int(text.partition(" ")[0]),
        parent=int(fields[1]),
        own_seconds=(user + system) / _TICKS,
        given_seconds=(given_user + given_system) / _TICKS,
    )


def parse_status(text: str) -> Memory:
    """Reads /proc/PID/status; a process that has ended has no memory."""
    found = {name: int(kib) * 1024 for name, kib in _FIELD.findall(text)}
    return Memory(peak_bytes=found.get("VmHWM", 0), shared_bytes=found.get("RssShmem", 0))


def process_table() -> dict[int, Process]:
    """All processes of this machine."""
    texts = (_read(f"{entry}/stat") for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return {process.pid: process for process in map(parse_stat, filter(None, texts))}


def below(root: int, table: Mapping[int, Process]) -> Iterator[Process]:
    """A process and everything that comes from it, parents first."""
    children = defaultdict(list)
    for process in table.values():
        children[process.parent].append(process)
    found = [table[root]] if root in table else []
    while found:
        process = found.pop()
        yield process
        found += children[process.pid]


def role_by_command(command: str) -> str | None:
    """Which of our programs a command line is; None when it is none of them, and belongs to whoever started it."""
    if "styx_agent.supervisor.main" in command:
        return "supervisor"
    if "-m styx_server" in command:
        return "server"
    if "-m styx_agent" in command:
        return "link"
    program = command.partition(" ")[0]
    return "postgres" if program.endswith("postgres") or program == "postgres:" else None


def roles_below(root: int, table: Mapping[int, Process], command_of: Callable[[int], str]) -> dict[int, str]:
    """The role of each process of a tree that `styx up` is the root of. What a supervisor starts are tasks."""
    roles: dict[int, str] = {}
    for process in below(root, table):
        inherited = roles.get(process.parent, "up")
        told = role_by_command(command_of(process.pid))
        roles[process.pid] = told or ("tasks" if inherited == "supervisor" else inherited)
    return roles


def add_up(table: Mapping[int, Process], roles: Mapping[int, str], memory_of: Callable[[int], Memory]) -> Usage:
    """What the processes of each role have used."""
    cpu: dict[str, float] = defaultdict(float)
    memory: dict[str, list[Memory]] = defaultdict(list)
    for pid, role in roles.items():
        cpu[role] += table[pid].own_seconds
        cpu["tasks" if role == "supervisor" else role] += table[pid].given_seconds
        memory[role].append(memory_of(pid))
    return Usage(cpu_seconds=dict(cpu), peak_bytes={role: _together(each) for role, each in memory.items()})


def usage_of_stack(root: int) -> Usage:
    """What the tree below a `styx up` has used."""
    table = process_table()
    return add_up(table, roles_below(root, table, command_of), memory_of)


def usage_below(root: int, role: str) -> Usage:
    """What a tree has used, all of it in one role."""
    table = process_table()
    return add_up(table, {process.pid: role for process in below(root, table)}, memory_of)


def usage_of(pid: int, role: str) -> Usage:
    """What one process has used, without its children."""
    process = parse_stat(_read(f"/proc/{pid}/stat"))
    return Usage(cpu_seconds={role: process.own_seconds}, peak_bytes={role: memory_of(pid).peak_bytes})


def together(usages: Iterable[Usage]) -> Usage:
    """Several in one; the same role in two of them is added up."""
    cpu: dict[str, float] = defaultdict(float)
    peak: dict[str, int] = defaultdict(int)
    for usage in usages:
        for role, seconds in usage.cpu_seconds.items():
            cpu[role] += seconds
        for role, size in usage.peak_bytes.items():
            peak[role] += size
    return Usage(cpu_seconds=dict(cpu), peak_bytes=dict(peak))


def command_of(pid: int) -> str:
    """Its command line, with blanks between the words; empty when it is gone."""
    return _read(f"/proc/{pid}/cmdline").replace("\0", " ").strip()


def memory_of(pid: int) -> Memory:
    """Its memory; none when it is gone."""
    return parse_status(_read(f"/proc/{pid}/status"))


def _together(memories: Iterable[Memory]) -> int:
    found = list(memories)
    own = sum(max(0, each.peak_bytes - each.shared_bytes) for each in found)
    return own + max(each.shared_bytes for each in found)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
