"""Parts of the supervisor that need no process: frames, journal, spool, marks, control group files."""

from __future__ import annotations

import hashlib
import json
import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from styx_agent.supervisor import cgroups, spool, wire
from styx_agent.supervisor.cgroups import Cgroup, Cgroups
from styx_agent.supervisor.journal import FILE_NAME, Journal, LeaseFile
from styx_agent.supervisor.marks import Marks
from styx_agent.supervisor.spawn import CannotStart, find_program
from styx_agent.supervisor.spool import SEGMENT_BYTES, Spool

MESSAGES = st.lists(st.lists(st.fixed_dictionaries({"op": st.text(), "x": st.text() | st.integers()})))


def a_journal(directory: Path) -> Journal:
    return Journal(str(directory), lambda _micros, _call: None)


@given(batches=MESSAGES, cuts=st.lists(st.integers(1, 50), min_size=1))
def test_frames_survive_any_cutting(batches: list[list[wire.Message]], cuts: list[int]) -> None:
    data = b"".join(wire.encode(batch) for batch in batches)
    reader, found, number = wire.FrameReader(), [], 0
    while data:
        size = cuts[number % len(cuts)]
        found += reader.feed(data[:size])
        data, number = data[size:], number + 1
    assert found == [message for batch in batches for message in batch]


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\0\0\0\2{}", b"\0\0\0\4[{}]", b"\0\0\0\3abc"])
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    with pytest.raises(wire.BadFrame):
        wire.FrameReader().feed(data)


def test_journal_gives_back_what_was_committed(tmp_path: Path) -> None:
    journal = a_journal(tmp_path)
    journal.boot("boot", "supervisor")
    for fence in (1, 2, 3):
        journal.start(fence, {"argv": ["true"]})
    journal.end(2, {"outcome": "x"})
    journal.forget(3)
    assert journal.commit()
    journal.start(4, {})  # said, never committed
    again = a_journal(tmp_path)
    assert (set(again.starts), set(again.ends), again.boot_id) == ({1, 2}, {2}, "boot")


def test_ends_are_synced_later_and_only_those_that_nobody_acked(tmp_path: Path) -> None:
    due: list[Callable[[], None]] = []
    journal = Journal(str(tmp_path), lambda _micros, call: due.append(call))
    journal.start(1, {})
    assert journal.commit()
    assert due == []
    journal.end(1, {})
    assert journal.commit()
    assert journal.commit()
    assert len(due) == 1
    journal.forget(1)
    due.pop()()
    journal.end(2, {})
    assert journal.commit()
    assert len(due) == 1


def test_journal_bears_a_torn_end_and_a_spoiled_line(tmp_path: Path) -> None:
    journal = a_journal(tmp_path)
    journal.start(1, {})
    journal.start(2, {})
    journal.close()
    path = tmp_path / FILE_NAME
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1] + b"\xff garbage\n" + lines[2] + b'{"k":"start","fen')
    again = a_journal(tmp_path)
    assert set(again.starts) == {1, 2}
    again.start(5, {})
    again.close()
    assert set(a_journal(tmp_path).starts) == {1, 2, 5}


def test_journal_does_not_grow_for_ever(tmp_path: Path) -> None:
    journal = a_journal(tmp_path)
    journal.start(1, {"argv": ["true"]})
    for fence in range(2, 6000):
        journal.start(fence, {"argv": ["true"]})
        journal.end(fence, {})
        journal.forget(fence)
        assert journal.commit()
    assert (tmp_path / FILE_NAME).stat().st_size < 1_000_000
    assert set(a_journal(tmp_path).starts) == {1}


def test_journal_goes_on_where_there_is_no_room_for_a_second_one(tmp_path: Path) -> None:
    journal = a_journal(tmp_path)
    journal.start(1, {})
    journal.close()
    path = tmp_path / FILE_NAME
    path.write_bytes(path.read_bytes() + b'{"k":"start","fen')
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        again = a_journal(tmp_path)
        again.start(2, {})
        assert not again.commit()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert again.commit()
    assert set(a_journal(tmp_path).starts) == {1, 2}


def test_journal_keeps_what_a_full_disk_refused(tmp_path: Path) -> None:
    journal = a_journal(tmp_path)
    journal.start(1, {"argv": ["x" * 100]})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / FILE_NAME).stat().st_size + 50, hard))
    try:
        assert not journal.commit()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert journal.commit()
    assert set(a_journal(tmp_path).starts) == {1}


def test_a_lease_of_an_earlier_boot_is_no_lease(tmp_path: Path) -> None:
    lease = LeaseFile(str(tmp_path))
    assert lease.load() is None
    lease.save(5, 7)
    assert lease.load() == (5, 7)
    path = tmp_path / "lease.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "boot_id": "earlier"}))
    assert lease.load() is None


def make_spool(directory: Path, limit: int = 1 << 40) -> Spool:
    return Spool(str(directory), "stdout", limit)


def test_spool_cuts_segments_at_fixed_places(tmp_path: Path) -> None:
    kept = make_spool(tmp_path)
    data = os.urandom(2 * SEGMENT_BYTES + 1000)
    for start in range(0, len(data), 300_000):
        kept.append(memoryview(data)[start : start + 300_000], start)
    kept.close()
    names = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(names) == {f"stdout.{base}" for base in (0, SEGMENT_BYTES, 2 * SEGMENT_BYTES)}
    assert b"".join(names[f"stdout.{base}"] for base in (0, SEGMENT_BYTES, 2 * SEGMENT_BYTES)) == data
    assert kept.summary()["sha256"] == hashlib.sha256(data).hexdigest()
    assert spool.measure(str(tmp_path), "stdout") == {**kept.summary(), "gaps": []}


def test_spool_frees_whole_segments_and_keeps_the_newest(tmp_path: Path) -> None:
    kept = make_spool(tmp_path, limit=3 * SEGMENT_BYTES)
    kept.append(memoryview(bytes(2 * SEGMENT_BYTES)), 0)
    assert kept.room == SEGMENT_BYTES
    kept.free(SEGMENT_BYTES - 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stdout.0", f"stdout.{SEGMENT_BYTES}"]
    assert kept.room == 2 * SEGMENT_BYTES - 1
    kept.free(10**12)
    assert [path.name for path in tmp_path.iterdir()] == [f"stdout.{SEGMENT_BYTES}"]
    assert kept.room == 3 * SEGMENT_BYTES
    found = spool.measure(str(tmp_path), "stdout")
    assert found is not None
    assert (found["total"], found["sha256"]) == (2 * SEGMENT_BYTES, "")


def test_spool_joins_gaps_and_leaves_them_out_of_the_digest(tmp_path: Path) -> None:
    kept = make_spool(tmp_path)
    kept.append(memoryview(b"head"), 0)
    kept.skip(10, "spool_full")
    kept.skip(5, "spool_full")
    kept.append(memoryview(b"tail"), 0)
    summary = kept.summary()
    assert (summary["total"], summary["gaps"]) == (23, [(4, 19, "spool_full")])
    assert summary["sha256"] == hashlib.sha256(b"headtail").hexdigest()
    assert (tmp_path / "stdout.0").read_bytes() == b"head" + bytes(15) + b"tail"


def test_spool_bounds_its_time_marks(tmp_path: Path) -> None:
    kept = make_spool(tmp_path)
    for number in range(10_000):
        kept.append(memoryview(b"x"), number * 20_000)
    assert 1000 < len(kept.marks) <= 4096
    assert kept.marks == sorted(kept.marks)
    assert kept.marks[0][0] == 0


def test_spool_tells_each_mark_once(tmp_path: Path) -> None:
    kept = make_spool(tmp_path)
    kept.append(memoryview(b"a"), 0)
    kept.append(memoryview(b"b"), 20_000)
    assert kept.news()["marks"] == [(0, 0), (1, 20_000)]
    kept.append(memoryview(b"c"), 25_000)
    assert kept.news()["marks"] == []
    kept.append(memoryview(b"d"), 40_000)
    assert kept.news()["marks"] == [(3, 40_000)]


@given(tag=st.integers(0, 2**32), fence=st.integers(0, 2**42 - 1))
def test_a_mark_fits_a_limit(tag: int, fence: int) -> None:
    mark = Marks(tag).mark(fence)
    assert 1 << 62 <= mark < 1 << 63
    assert Marks(tag).mark(fence) == mark


def test_marks_are_read_from_processes_and_belong_to_one_agent() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_RTTIME)
    try:
        resource.setrlimit(resource.RLIMIT_RTTIME, (Marks(7).mark(99), hard))
        assert Marks(7).fence_of(os.getpid()) == 99
        assert Marks(8).fence_of(os.getpid()) is None
    finally:
        resource.setrlimit(resource.RLIMIT_RTTIME, (soft, hard))
    assert Marks(7).fence_of(os.getpid()) is None
    assert Marks(7).fence_of(2**22 + 1) is None


def test_control_groups_get_the_limits_there_are_controllers_for(tmp_path: Path) -> None:
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory pids\n")
    made = tmp_path / "5"
    groups = Cgroups(str(tmp_path), home=Cgroup(str(tmp_path)))
    assert groups.limits_memory
    assert cgroups.isolation(groups) == "cgroup"
    made.mkdir()
    for name in ("memory.max", "memory.oom.group", "memory.swap.max"):  # which the kernel makes
        (made / name).touch()
    Cgroup(str(made)).limit_memory(1 << 20)
    assert (made / "memory.max").read_text() == "1048576"
    assert (made / "memory.oom.group").read_text() == "1"
    assert (made / "memory.swap.max").read_text() == "0"
    (made / "memory.events").write_text("low 0\noom 1\noom_kill 1\n")
    assert Cgroup(str(made), limits_memory=True).oom_killed()


def test_isolation_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "cgroup.subtree_control").write_text("pids\n")
    groups = Cgroups(str(tmp_path), home=Cgroup(str(tmp_path)))
    assert cgroups.isolation(groups) == "cgroup; no memory limit: cgroup v2 memory controller missing"
    assert cgroups.isolation(None).startswith("process group; no memory limit")


def test_programs_are_found_by_the_path_of_the_task(tmp_path: Path) -> None:
    program = tmp_path / "tool"
    program.write_text("#!/bin/sh\n")
    with pytest.raises(CannotStart, match="no such program in PATH"):
        find_program("tool", str(tmp_path))
    program.chmod(0o755)
    (tmp_path / "directory").mkdir()
    assert find_program("tool", f"/nowhere:{tmp_path}") == str(program)
    assert find_program("./anything", "") == "./anything"
    for name in ("directory", "", "a\0b"):
        with pytest.raises(CannotStart):
            find_program(name, str(tmp_path))
