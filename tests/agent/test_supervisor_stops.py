"""How a supervisor ends attempts: on request, on time, on silence; and that nothing is ever left of them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support.supervisor_driver import SECOND, SupervisorDriver, boottime_micros, processes, sleepers
from tests.support.until import until


@pytest.mark.parametrize(("cause", "kind"), [("CANCEL", "CANCELLED"), ("PREEMPT", "PREEMPTED")])
def test_a_stop_reaches_the_whole_tree(supervisor: SupervisorDriver, tag: str, cause: str, kind: str) -> None:
    fence = supervisor.start(f"sleep {tag} & setsid sleep {tag} & (sleep {tag} &) ; echo up; sleep {tag}")
    supervisor.written(fence, 3)
    until(lambda: len(sleepers(tag)) >= 4, "the tree is up")
    supervisor.stop(fence, cause)
    assert supervisor.outcome(fence)["kind"] == kind
    assert sleepers(tag) == []


def test_what_ignores_sigterm_dies_after_its_grace(supervisor: SupervisorDriver, tag: str) -> None:
    fence = supervisor.start(f"trap '' TERM; echo up; while :; do sleep {tag}; done")
    supervisor.written(fence, 3)
    before = boottime_micros()
    supervisor.stop(fence, grace_micros=SECOND // 2)
    outcome = supervisor.outcome(fence)
    assert (outcome["kind"], outcome["signal"]) == ("CANCELLED", signal.SIGKILL)
    assert boottime_micros() - before >= SECOND // 2
    assert sleepers(tag) == []


def test_a_second_stop_can_only_shorten_the_grace(supervisor: SupervisorDriver, tag: str) -> None:
    fence = supervisor.start(f"trap '' TERM; echo up; while :; do sleep {tag}; done")
    supervisor.written(fence, 3)
    supervisor.stop(fence, grace_micros=600 * SECOND)
    supervisor.stop(fence, "PREEMPT", grace_micros=0)
    assert supervisor.outcome(fence)["kind"] == "CANCELLED"


def test_a_command_that_exits_by_itself_when_stopped_keeps_its_code(supervisor: SupervisorDriver, tag: str) -> None:
    fence = supervisor.start(f"trap 'exit 9' TERM; sleep {tag} & wait")
    until(lambda: len(sleepers(tag)) == 1, "it waits")
    supervisor.stop(fence)
    outcome = supervisor.outcome(fence)
    assert (outcome["kind"], outcome["exit_code"]) == ("CANCELLED", 9)


def _sleeps(tag: str) -> None:
    """Waits until the shell's child has become `sleep`: a SIGTERM before that may be lost between fork and exec."""
    until(lambda: len(sleepers(tag)) == 1, "it sleeps")


def test_a_stopped_tree_can_be_stopped_for_good(supervisor: SupervisorDriver, tag: str) -> None:
    fence = supervisor.start(f"trap 'exit 5' TERM; sleep {tag} & echo $$; kill -STOP $$; wait")
    supervisor.written(fence, 2)
    stat = Path(f"/proc/{int(supervisor.output(fence))}/stat")
    until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "it has stopped itself")
    _sleeps(tag)
    supervisor.stop(fence)
    outcome = supervisor.outcome(fence)
    assert (outcome["kind"], outcome["exit_code"]) == ("CANCELLED", 5)
    assert sleepers(tag) == []


def test_a_stop_during_setup_works(supervisor: SupervisorDriver, tag: str) -> None:
    fence = supervisor.start("echo never", setup=f"echo up; sleep {tag}")
    supervisor.written(fence, 3)
    _sleeps(tag)
    supervisor.stop(fence)
    assert supervisor.outcome(fence)["kind"] == "CANCELLED"
    assert supervisor.output(fence) == b"up\n"
    assert sleepers(tag) == []


def test_a_stop_in_the_same_breath_as_the_start_works(supervisor: SupervisorDriver, tag: str) -> None:
    order = {"op": "start", "fence": 70, "task_id": 70, "attempt": 1, "argv": ["sleep", tag], "env": dict(os.environ)}
    supervisor.say(order, {"op": "stop", "fence": 70, "cause": "CANCEL"})
    assert supervisor.outcome(70)["kind"] == "CANCELLED"
    assert sleepers(tag) == []


@pytest.mark.parametrize(
    "daemon",
    [
        "setsid sh -c 'sleep {tag} & exit' >/dev/null 2>&1 </dev/null",
        "env -i setsid sh -c '(sleep {tag} >/dev/null 2>&1 &)' >/dev/null 2>&1",
        "(trap '' TERM; exec sleep {tag}) >/dev/null 2>&1 & :",
    ],
)
def test_no_daemon_outlives_its_task(supervisor: SupervisorDriver, tag: str, daemon: str) -> None:
    fence = supervisor.start(f"{daemon.format(tag=tag)}; sleep 0.1; echo up", grace_micros=SECOND // 4)
    outcome = supervisor.outcome(fence)
    assert (outcome["kind"], outcome["exit_code"]) == ("EXITED", 0)
    assert sleepers(tag) == []


def test_what_forks_all_the_time_dies_too(supervisor: SupervisorDriver, tag: str) -> None:
    fence = supervisor.start(
        f"trap '' TERM; echo up; while :; do (trap '' TERM; sleep 0.01; : {tag}) & sleep 0.002; done"
    )
    supervisor.written(fence, 3)
    supervisor.stop(fence, grace_micros=0)
    assert supervisor.outcome(fence)["kind"] == "CANCELLED"
    assert processes(tag) == []


def test_a_stop_of_what_has_just_been_started_reaches_nobody_else(supervisor: SupervisorDriver, tag: str) -> None:
    """Between fork and exec a process is still half its parent, and must not take a signal for one to the parent."""
    bystander = supervisor.start(f"sleep {tag}")
    supervisor.running(bystander)
    for _ in range(60):
        fence = supervisor.start(argv=["/bin/sleep", tag])
        supervisor.running(fence)
        supervisor.stop(fence)
        assert (supervisor.outcome(fence)["kind"], supervisor.outcome(fence)["signal"]) == ("CANCELLED", 15)
    assert supervisor.state(bystander) == "RUNNING"


def test_one_attempt_can_be_stopped_without_the_other(supervisor: SupervisorDriver, tag: str) -> None:
    first = supervisor.start(f"echo up; setsid sleep {tag}1 & wait")
    second = supervisor.start(f"echo up; setsid sleep {tag}2 & wait")
    supervisor.written(first, 3)
    supervisor.written(second, 3)
    until(lambda: len(sleepers(tag)) >= 2, "both are up")
    supervisor.stop(first)
    supervisor.ended(first)
    assert sleepers(f"{tag}1") == []
    assert len(sleepers(f"{tag}2")) == 1
    supervisor.stop(second)
    supervisor.ended(second)


def test_the_timeout_is_enforced(supervisor: SupervisorDriver, tag: str) -> None:
    fence = supervisor.start(f"sleep {tag}", timeout_micros=SECOND // 5)
    attempt = supervisor.ended(fence)
    assert attempt["outcome"]["kind"] == "TIMED_OUT"
    assert attempt["ended_micros"] - attempt["started_micros"] >= SECOND // 5


def test_setup_cannot_hang_beyond_the_timeout(supervisor: SupervisorDriver, tag: str) -> None:
    fence = supervisor.start("true", setup=f"sleep {tag}", timeout_micros=SECOND // 5)
    assert supervisor.outcome(fence)["kind"] == "TIMED_OUT"


def test_a_start_that_nobody_recorded_ends_with_the_short_window(supervisor: SupervisorDriver, tag: str) -> None:
    sent = boottime_micros()
    supervisor.extend(window_micros=2 * SECOND, sent_micros=sent)
    fence = supervisor.start(f"trap '' TERM; while :; do sleep {tag}; done")
    attempt = supervisor.ended(fence)
    assert attempt["outcome"]["kind"] == "LOST"
    assert attempt["ended_micros"] <= sent + 2 * SECOND
    assert sleepers(tag) == []


def test_a_recorded_start_lives_on_beyond_the_short_window(supervisor: SupervisorDriver, tag: str) -> None:
    supervisor.extend(window_micros=SECOND, sent_micros=boottime_micros())
    recorded = supervisor.start(f"sleep {tag}", disconnect_micros=600 * SECOND)
    unrecorded = supervisor.start(f"sleep {tag}", disconnect_micros=600 * SECOND)
    supervisor.running(recorded)
    supervisor.say({"op": "recorded", "fences": [recorded]})
    assert supervisor.outcome(unrecorded)["kind"] == "LOST"
    assert supervisor.state(recorded) == "RUNNING"
    assert len(sleepers(tag)) == 1


def test_a_recorded_start_ends_with_its_disconnect_timeout(supervisor: SupervisorDriver, tag: str) -> None:
    sent = boottime_micros()
    supervisor.extend(sent_micros=sent)
    fence = supervisor.start(f"trap '' TERM; while :; do sleep {tag}; done", disconnect_micros=2 * SECOND)
    never = supervisor.start(f"sleep {tag}", disconnect_micros=None)
    supervisor.say({"op": "recorded", "fences": [fence, never]})
    attempt = supervisor.ended(fence)
    assert attempt["outcome"]["kind"] == "LOST"
    assert sent + 1 * SECOND < attempt["ended_micros"] <= sent + 2 * SECOND
    assert supervisor.state(never) == "RUNNING"


def test_beats_keep_an_attempt_alive(supervisor: SupervisorDriver) -> None:
    supervisor.extend(window_micros=SECOND, sent_micros=boottime_micros())
    fence = supervisor.start("for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.25; done", disconnect_micros=60 * SECOND)
    for count in range(1, 9):
        supervisor.written(fence, 2 * count)
        supervisor.extend(window_micros=SECOND, sent_micros=boottime_micros())
    assert supervisor.outcome(fence)["kind"] == "EXITED"


def test_an_older_beat_does_not_shorten_the_lease(supervisor: SupervisorDriver) -> None:
    supervisor.extend(sent_micros=boottime_micros())
    supervisor.extend(sent_micros=boottime_micros() - 600 * SECOND)
    assert supervisor.outcome(supervisor.start("exit 0"))["kind"] == "EXITED"


def test_nothing_is_started_after_the_window(supervisor: SupervisorDriver) -> None:
    supervisor.extend(window_micros=1, sent_micros=boottime_micros())
    attempt = supervisor.ended(supervisor.start("echo never"))
    assert attempt["outcome"]["kind"] == "REJECTED"
    assert attempt["started_micros"] is None
    assert attempt["logs"] == []
