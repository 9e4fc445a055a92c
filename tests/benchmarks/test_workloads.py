"""What the benchmark submits and prints is what it says."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import zstandard

from benchmarks.bulk import equal_tasks, with_id
from benchmarks.output import LINE_BYTES, Talk, opened, talker, write_lines
from styx.v1 import styx_service_pb2 as pb


def test_a_request_that_is_made_once_is_a_new_one_with_each_id() -> None:
    made = equal_tasks(3, "crowd")
    for request_id in ("one", "two"):
        request = pb.SubmitTasksRequest.FromString(with_id(made, request_id))
        assert (request.request_id, request.namespace) == (request_id, "crowd")
        assert [list(spec.argv) for spec in request.specs] == [["/bin/true"]] * 3


def test_lines_are_as_long_as_they_are_said_to_be_and_the_same_each_time(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    assert write_lines(one, 5000) == write_lines(two, 5000) == one.stat().st_size
    assert one.read_bytes() == two.read_bytes()
    assert {len(line) for line in one.read_bytes().splitlines(keepends=True)} == {LINE_BYTES}


def test_lines_can_be_compressed_as_logs_can(tmp_path: Path) -> None:
    size = write_lines(tmp_path / "lines", 2621)
    packed = len(zstandard.ZstdCompressor(level=1).compress((tmp_path / "lines").read_bytes()))
    assert 4 < size / packed < 8


def test_a_talker_waits_for_its_gate_and_tells_when_each_line_was_written(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    talk = Talk(writes=2, lines_per_write=3, writes_per_second=1000)
    with subprocess.Popen(talker(gate, talk), stdout=subprocess.PIPE) as talking, opened(gate):
        out, _ = talking.communicate(timeout=60)
    lines = out.splitlines(keepends=True)
    assert [len(line) for line in lines] == [LINE_BYTES] * talk.lines
    times = [int(line.split()[0]) for line in lines]
    assert times == sorted(times)
    assert len(set(times)) == talk.writes
    assert [line.split()[2] for line in lines] == [b"%d" % number for number in range(talk.lines)]
