"""The life of the supervisor itself: links that come and go, its own death, a new one after it."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from styx_agent.supervisor import wire
from tests.support.supervisor_driver import SECOND, SupervisorDriver, boottime_micros, processes, sleepers
from tests.support.until import until


def test_a_new_link_learns_everything(supervisor: SupervisorDriver, tag: str) -> None:
    over, alive = supervisor.start("echo out; exit 3"), supervisor.start(f"echo up; sleep {tag}")
    supervisor.ended(over)
    supervisor.written(alive, 3)
    supervisor.say({"op": "recorded", "fences": [alive]})
    supervisor.hang_up()
    supervisor.attempts.clear()
    supervisor.streams.clear()
    supervisor.connect()
    assert supervisor.attempts[over]["outcome"]["exit_code"] == 3
    assert supervisor.streams[over, "stdout"]["end"] == 4
    assert supervisor.state(alive) == "RUNNING"
    assert supervisor.attempts[alive]["recorded"]
    assert supervisor.streams[alive, "stdout"]["end"] == 3


def test_a_newer_link_replaces_the_older(supervisor: SupervisorDriver) -> None:
    old, supervisor.socket = supervisor.socket, None
    assert old is not None
    supervisor.connect()
    with old:
        old.settimeout(5)
        while old.recv(1 << 20):
            pass
    assert supervisor.outcome(supervisor.start("true"))["exit_code"] == 0


def test_a_stranger_who_talks_nonsense_is_shown_the_door(supervisor: SupervisorDriver) -> None:
    stranger = wire.dial(str(supervisor.directory))
    stranger.settimeout(5)
    stranger.sendall(b"\0\0\0\4oops")
    assert stranger.recv(1) == b""
    stranger.close()
    supervisor.connect()
    assert supervisor.outcome(supervisor.start("true"))["exit_code"] == 0


def test_a_start_that_comes_twice_runs_once(supervisor: SupervisorDriver) -> None:
    fence = supervisor.start("echo once >> $HOME/count", env={"HOME": str(supervisor.directory)}, fence=50)
    supervisor.start("echo twice", fence=fence)
    supervisor.ended(fence)
    supervisor.start("echo thrice", fence=fence)
    supervisor.say({"op": "forget", "fence": fence})
    supervisor.start("echo again", fence=fence)
    supervisor.outcome(supervisor.start("true"))
    assert (supervisor.directory / "count").read_text() == "once\n"


def test_forgetting_what_lives_kills_it(supervisor: SupervisorDriver, tag: str) -> None:
    fence = supervisor.start(f"trap '' TERM; echo up; while :; do sleep {tag}; done")
    supervisor.written(fence, 3)
    supervisor.say({"op": "forget", "fence": fence})
    until(lambda: not os.listdir(supervisor.directory / "attempts"), "its directory is gone")
    assert sleepers(tag) == []
    supervisor.connect()
    assert supervisor.welcome["attempts"] == []


def test_nothing_outlives_a_supervisor_that_is_killed(supervisor: SupervisorDriver, tag: str) -> None:
    fence = supervisor.start(f"setsid sleep {tag} & (env -i sleep {tag} >/dev/null 2>&1 &) ; echo up; sleep {tag}")
    supervisor.written(fence, 3)
    until(lambda: len(sleepers(tag)) >= 3, "the tree is up")
    supervisor.kill()
    until(lambda: sleepers(tag) == [], "the guardian has killed all of it")
    until(lambda: processes(f"styx-guardian {supervisor.directory}") == [], "the guardian is gone")


def test_the_next_supervisor_says_that_the_last_one_died(supervisor: SupervisorDriver, tag: str) -> None:
    over = supervisor.start("echo out; exit 3")
    lost = supervisor.start(f"echo up; sleep {tag}")
    supervisor.ended(over)
    supervisor.written(lost, 3)
    supervisor.kill()
    supervisor.attempts.clear()
    supervisor.launch(extend=False)
    assert supervisor.attempts[over]["outcome"]["exit_code"] == 3
    assert supervisor.outcome(lost)["kind"] == "SUPERVISOR_LOST"
    log = supervisor.log(lost)
    assert (log["total"], log["sha256"]) == (3, hashlib.sha256(b"up\n").hexdigest())
    assert supervisor.output(lost) == b"up\n"
    assert sleepers(tag) == []


def test_a_lease_survives_the_supervisor(supervisor: SupervisorDriver) -> None:
    sent = boottime_micros() - SECOND
    supervisor.extend(sent_micros=sent + 2 * SECOND, window_micros=7 * SECOND)
    supervisor.outcome(supervisor.start("true"))
    supervisor.kill()
    supervisor.launch(extend=False)
    assert supervisor.welcome["lease"] == [sent + 2 * SECOND, 7 * SECOND]


def test_a_guardian_that_dies_is_replaced(supervisor: SupervisorDriver) -> None:
    def guardians() -> list[int]:
        return processes(f"{supervisor.directory} ")

    words = "styx-guardian"
    until(lambda: any(pid in processes(words) for pid in guardians()), "there is one")
    (first,) = [pid for pid in guardians() if pid in processes(words)]
    os.kill(first, 9)
    until(lambda: any(pid != first for pid in guardians() if pid in processes(words)), "there is another")


def test_a_restart_of_the_machine_is_said(plain_supervisor: SupervisorDriver) -> None:
    supervisor = plain_supervisor
    supervisor.launch()
    over = supervisor.start("echo out; exit 3")
    ended = supervisor.ended(over)
    supervisor.kill()
    journal = supervisor.directory / "attempts.journal"
    order = {"fence": 9, "task_id": 9, "attempt": 1, "argv": ["true"]}
    text = journal.read_text().replace(supervisor.welcome["boot_id"], "of-an-earlier-time")
    journal.write_text(text + json.dumps({"k": "start", "fence": 9, "order": order}) + "\n" + '{"k": "start", "fen')
    supervisor.attempts.clear()
    supervisor.launch()
    assert supervisor.outcome(9)["kind"] == "HOST_REBOOTED"
    assert supervisor.outcome(over)["exit_code"] == 3
    assert abs(supervisor.attempts[over]["ended_micros"] - ended["ended_micros"]) < SECOND


def test_output_that_the_disk_lost_is_a_gap(plain_supervisor: SupervisorDriver) -> None:
    supervisor = plain_supervisor
    supervisor.launch()
    fence = supervisor.start("echo 0123456789")
    supervisor.ended(fence)
    supervisor.kill()
    journal = supervisor.directory / "attempts.journal"
    journal.write_text(journal.read_text().replace(supervisor.welcome["boot_id"], "of-an-earlier-time"))
    os.truncate(supervisor.directory / "attempts" / str(fence) / "stdout.0", 4)
    supervisor.attempts.clear()
    supervisor.launch()
    log = supervisor.log(fence)
    assert (log["total"], log["gaps"]) == (11, [[4, 11, "disk_error"]])
    assert log["sha256"] == ""  # it was made of bytes that are gone


def test_a_long_data_directory_is_no_problem(tmp_path: Path) -> None:
    directory = tmp_path / ("long" * 20) / ("longer" * 20)
    directory.mkdir(parents=True, mode=0o700)
    driver = SupervisorDriver(directory)
    try:
        driver.launch()
        assert driver.outcome(driver.start("true"))["exit_code"] == 0
        assert (directory / "supervisor.sock").stat().st_mode & 0o777 == 0o600
    finally:
        driver.close()


def test_only_one_supervisor_lives_in_a_directory(supervisor: SupervisorDriver) -> None:
    second = SupervisorDriver(supervisor.directory)
    second.launch()
    assert second.process is not None
    assert second.process.wait(20) == 0
    assert second.welcome["pid"] == supervisor.welcome["pid"]
    second.close()


@pytest.mark.parametrize("stop_tasks", [False, True])
def test_shutdown_spares_tasks_unless_told_otherwise(supervisor: SupervisorDriver, tag: str, stop_tasks: bool) -> None:
    fence = supervisor.start(f"echo up; sleep {tag}")
    supervisor.written(fence, 3)
    supervisor.say({"op": "shutdown", "stop_tasks": stop_tasks})
    assert supervisor.process is not None
    if stop_tasks:
        assert supervisor.outcome(fence)["kind"] == "PREEMPTED"
        assert supervisor.process.wait(20) == 0
        assert sleepers(tag) == []
    else:
        assert supervisor.outcome(supervisor.start("exit 6"))["exit_code"] == 6
        assert len(sleepers(tag)) == 1


def test_a_supervisor_that_nobody_needs_ends(data_dir: Path) -> None:
    driver = SupervisorDriver(data_dir, "--idle-seconds", "0.2")
    driver.launch()
    fence = driver.start("exit 3")
    driver.ended(fence)
    driver.hang_up()
    assert driver.process is not None
    assert driver.process.wait(20) == 0
    driver.launch()
    assert driver.outcome(fence)["exit_code"] == 3
    driver.close()


def test_the_supervisor_is_small(supervisor: SupervisorDriver) -> None:
    for _ in range(50):
        fence = supervisor.start("echo x")
    supervisor.ended(fence)
    status = Path(f"/proc/{supervisor.welcome['pid']}/status").read_text()
    resident = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    assert resident < 25_000


def test_it_is_noted_on_disk_while_something_runs(plain_supervisor: SupervisorDriver, tag: str) -> None:
    plain_supervisor.flags = ("--idle-seconds", "0.05")
    plain_supervisor.launch()
    busy = plain_supervisor.directory / "busy"
    assert not busy.exists()
    fence = plain_supervisor.start(f"sleep {tag}")
    until(busy.exists, "something runs")
    before = busy.stat().st_mtime_ns
    until(lambda: busy.stat().st_mtime_ns > before, "it still does")
    plain_supervisor.say({"op": "stop", "fence": fence, "cause": "CANCEL", "grace_micros": 0})
    plain_supervisor.ended(fence)
    busy.unlink()
    plain_supervisor.outcome(plain_supervisor.start("true"))
