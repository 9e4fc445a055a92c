"""Attempts that wait for room on their machine: in order, not for long, and without a trace."""

from __future__ import annotations

import os

from tests.support.supervisor_driver import SupervisorDriver, sleepers


def capacity(supervisor: SupervisorDriver, cpus: int, memory_bytes: int = 1 << 40) -> None:
    supervisor.say({"op": "capacity", "cpus_milli": 1000 * cpus, "memory_bytes": memory_bytes})


def test_each_starts_when_one_before_it_has_ended(supervisor: SupervisorDriver, tag: str) -> None:
    capacity(supervisor, 1)
    first = supervisor.start(argv=["sleep", tag])
    supervisor.running(first)
    others = [supervisor.start("true") for _ in range(5)]
    assert [supervisor.state(fence) for fence in others] == [None] * 5
    supervisor.stop(first)
    ends = [supervisor.ended(fence) for fence in others]
    assert {end["outcome"]["kind"] for end in ends} == {"EXITED"}
    starts = [end["started_micros"] for end in ends]
    assert starts == sorted(starts)
    assert starts[0] >= supervisor.ended(first)["ended_micros"]


def test_what_waits_for_a_second_is_given_back_and_leaves_no_trace(supervisor: SupervisorDriver, tag: str) -> None:
    capacity(supervisor, 2, memory_bytes=100)
    busy = supervisor.start(argv=["sleep", tag], memory_bytes=60)
    supervisor.running(busy)
    waiting = supervisor.start("true", memory_bytes=50)
    end = supervisor.ended(waiting)
    assert end["outcome"]["kind"] == "RETURNED"
    assert (end["started_micros"], end["logs"]) == (None, [])
    assert os.listdir(supervisor.directory / "attempts") == []
    assert f'"fence":{waiting},' not in (supervisor.directory / "attempts.journal").read_text()


def test_what_waits_can_be_stopped(supervisor: SupervisorDriver, tag: str) -> None:
    capacity(supervisor, 1)
    busy = supervisor.start(argv=["sleep", tag])
    supervisor.running(busy)
    waiting = supervisor.start(argv=["sleep", tag])
    supervisor.stop(waiting)
    assert supervisor.outcome(waiting)["kind"] == "CANCELLED"
    assert len(sleepers(tag)) == 1


def test_what_needs_more_than_there_is_starts_when_nothing_else_runs(supervisor: SupervisorDriver) -> None:
    capacity(supervisor, 1)
    assert supervisor.outcome(supervisor.start("exit 3", cpus=8.0))["exit_code"] == 3


def test_what_needs_nothing_starts_on_a_full_machine(supervisor: SupervisorDriver, tag: str) -> None:
    capacity(supervisor, 1)
    supervisor.running(supervisor.start(argv=["sleep", tag]))
    assert supervisor.outcome(supervisor.start("true", cpus=0.0))["kind"] == "EXITED"


def test_a_link_that_comes_back_hears_of_what_waits(supervisor: SupervisorDriver, tag: str) -> None:
    capacity(supervisor, 1)
    busy = supervisor.start(argv=["sleep", tag])
    supervisor.running(busy)
    waiting = supervisor.start("true")
    supervisor.hang_up()
    supervisor.connect()
    assert supervisor.state(waiting) == "ACCEPTED"
    supervisor.stop(busy)
    assert supervisor.outcome(waiting)["kind"] in ("EXITED", "RETURNED")
