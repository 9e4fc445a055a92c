"""What the kernel says of processes: read, sorted by role, added up."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from benchmarks.figures import Usage
from benchmarks.processes import (
    Memory,
    Process,
    add_up,
    below,
    parse_stat,
    parse_status,
    role_by_command,
    roles_below,
    together,
    usage_below,
    usage_of,
)

_TICKS = os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("name", ["python3", "a b", "odd) 7 (name", ")"])
def test_fields_are_counted_from_behind_the_name_whatever_is_in_it(name: str) -> None:
    text = f"42 ({name}) S 7 42 42 0 -1 4194304 1 2 3 4 {_TICKS} {2 * _TICKS} {3 * _TICKS} {4 * _TICKS} 20 0 1 0 99"
    assert parse_stat(text) == Process(pid=42, parent=7, own_seconds=3.0, given_seconds=7.0)


def test_memory_is_the_peak_and_what_is_shared() -> None:
    status = "Name:\tpostgres\nVmPeak:\t999 kB\nVmHWM:\t   300 kB\nVmRSS:\t200 kB\nRssShmem:\t   100 kB\nThreads:\t1\n"
    assert parse_status(status) == Memory(peak_bytes=300 * 1024, shared_bytes=100 * 1024)


def test_a_process_that_is_gone_has_no_memory() -> None:
    assert parse_status("") == Memory(peak_bytes=0, shared_bytes=0)


@pytest.mark.parametrize(
    ("command", "role"),
    [
        ("/x/python -P -m styx_server --data-dir /tmp/a", "server"),
        ("/x/python -P -m styx_agent --server-url http://h:1", "link"),
        ("/x/python -I -S -c import sys; from styx_agent.supervisor.main import main; main()", "supervisor"),
        ("/opt/pg/bin/postgres -D /tmp/a", "postgres"),
        ("postgres: checkpointer", "postgres"),
        ("/bin/sh -c postgres", None),
        ("", None),
    ],
)
def test_programs_are_known_by_their_command_lines(command: str, role: str | None) -> None:
    assert role_by_command(command) == role


def a_table(*lines: tuple[int, int, float, float]) -> dict[int, Process]:
    return {
        pid: Process(pid=pid, parent=parent, own_seconds=own, given_seconds=given) for pid, parent, own, given in lines
    }


TABLE = a_table(
    (1, 0, 9.0, 9.0),
    (10, 1, 0.5, 0.0),
    (11, 10, 4.0, 0.25),
    (12, 11, 2.0, 1.0),
    (13, 12, 1.0, 0.0),
    (20, 10, 3.0, 0.0),
    (21, 20, 0.75, 6.0),
    (22, 21, 0.125, 0.0),
    (23, 22, 0.125, 0.0),
    (99, 1, 50.0, 0.0),
)
COMMANDS = {
    10: "styx up",
    11: "python -m styx_server",
    12: "postgres -D x",
    13: "postgres: writer",
    20: "python -m styx_agent",
    21: "python -c from styx_agent.supervisor.main import main",
    22: "/bin/sh -c make",
    23: "make",
}


def test_a_tree_is_a_process_and_all_that_comes_from_it() -> None:
    assert {process.pid for process in below(11, TABLE)} == {11, 12, 13}
    assert list(below(1000, TABLE)) == []


def test_every_process_of_a_stack_has_a_role() -> None:
    assert roles_below(10, TABLE, COMMANDS.__getitem__) == {
        10: "up",
        11: "server",
        12: "postgres",
        13: "postgres",
        20: "link",
        21: "supervisor",
        22: "tasks",
        23: "tasks",
    }


def test_what_ended_children_used_is_their_parents_and_a_supervisors_are_tasks() -> None:
    usage = add_up(TABLE, roles_below(10, TABLE, COMMANDS.__getitem__), lambda _: Memory(peak_bytes=9, shared_bytes=4))
    assert usage.cpu_seconds == {
        "up": 0.5,
        "server": 4.25,
        "postgres": 4.0,
        "link": 3.0,
        "supervisor": 0.75,
        "tasks": 6.25,
    }
    # Two processes of 9 that share 4: 5 each, and the 4 once.
    assert usage.peak_bytes["postgres"] == 14
    assert usage.peak_bytes["server"] == 9


def test_the_same_role_in_two_places_is_added_up() -> None:
    one = Usage(cpu_seconds={"a": 1.0}, peak_bytes={"a": 1})
    two = Usage(cpu_seconds={"a": 2.0, "b": 1.0}, peak_bytes={"a": 2})
    assert together([one, two]) == Usage(cpu_seconds={"a": 3.0, "b": 1.0}, peak_bytes={"a": 3})


def test_a_real_child_counts_while_it_lives_and_after_it_was_waited_for() -> None:
    def burn(seconds: float) -> list[str]:
        return [sys.executable, "-c", f"import time\nwhile time.process_time() < {seconds}: pass\ninput()"]

    before = usage_below(os.getpid(), "all").cpu_seconds["all"]
    with subprocess.Popen(burn(0.3), stdin=subprocess.PIPE) as child:
        deadline = time.monotonic() + 30
        while usage_of(child.pid, "child").cpu_seconds["child"] < 0.2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert usage_of(child.pid, "child").peak_bytes["child"] > 1 << 20
        assert usage_below(os.getpid(), "all").cpu_seconds["all"] - before >= 0.19
        child.communicate(b"\n")
    assert usage_below(os.getpid(), "all").cpu_seconds["all"] - before >= 0.19
