"""The machine: what the kernel says of its processors, and whether others were at work."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from benchmarks.machine import Load, LoadMeter, facts, parse_model, parse_processors, versions

_TICKS = os.sysconf("SC_CLK_TCK")


def test_idle_and_waiting_are_not_busy_and_what_was_stolen_is_apart() -> None:
    line = "cpu  " + " ".join(str(_TICKS * each) for each in (1, 2, 3, 1000, 500, 4, 5, 6, 0, 0))
    seen = parse_processors(line)
    assert (seen.busy_seconds, seen.stolen_seconds) == (15.0, 6.0)


@pytest.mark.parametrize(
    ("others", "stolen", "busy"), [(0.0, 0.0, False), (0.2, 0.0, False), (0.15, 0.1, True), (1.0, 0.0, True)]
)
def test_a_machine_is_busy_when_others_have_a_share_of_it(others: float, stolen: float, busy: bool) -> None:
    assert Load(seconds=1.0, others_cores=others, stolen_cores=stolen).is_busy is busy


def test_our_own_work_is_not_that_of_others() -> None:
    meter = LoadMeter()
    burn = "import time\nwhile time.process_time() < 0.5: pass"
    subprocess.run([sys.executable, "-c", burn], check=True)
    load = meter.read()
    # Whatever else runs on this machine, our half second is not in it.
    assert 0 <= load.others_cores * load.seconds <= (os.cpu_count() or 1) * load.seconds - 0.4


def test_a_processor_without_a_name_is_known_by_its_kind() -> None:
    assert parse_model("processor\t: 0\nmodel name\t: Fast 9000 \nflags: x\n") == "Fast 9000"
    assert parse_model("BogoMIPS: 1\n")


def test_facts_and_versions_say_what_a_reader_needs() -> None:
    assert {"cpus", "model", "kernel", "memory_bytes", "load_before", "fdatasync_ms"} <= facts().keys()
    assert {"styx", "commit", "python", "grpcio", "protobuf", "asyncpg", "postgresql"} <= versions().keys()
    assert all(versions().values())
