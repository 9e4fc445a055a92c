"""What a supervisor runs, captures and says, with real processes."""

from __future__ import annotations

import hashlib
import itertools
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.support.supervisor_driver import SECOND, SupervisorDriver, sleepers
from tests.support.until import until


@pytest.mark.parametrize(
    ("command", "kind", "exit_code", "number"),
    [
        ("exit 0", "EXITED", 0, 0),
        ("exit 7", "EXITED", 7, 0),
        ("exit 255", "EXITED", 255, 0),
        ("kill -SEGV $$", "SIGNALED", None, signal.SIGSEGV),
        ("kill -TERM $$", "SIGNALED", None, signal.SIGTERM),
        ("kill -KILL $$", "SIGNALED", None, signal.SIGKILL),
    ],
)
def test_the_way_a_command_ends_is_its_outcome(
    supervisor: SupervisorDriver, command: str, kind: str, exit_code: int | None, number: int
) -> None:
    outcome = supervisor.outcome(supervisor.start(command))
    assert (outcome["kind"], outcome["exit_code"], outcome["signal"]) == (kind, exit_code, number)


def test_argv_runs_without_a_shell(supervisor: SupervisorDriver) -> None:
    fence = supervisor.start(argv=["printf", "%s|", "a b", "$HOME", ""])
    assert supervisor.outcome(fence)["exit_code"] == 0
    assert supervisor.output(fence) == b"a b|$HOME||"


def test_environment_is_exactly_what_was_ordered(supervisor: SupervisorDriver) -> None:
    fence = supervisor.start(argv=["/usr/bin/env"], env={"MINE": "1", "PATH": "/usr/bin"})
    supervisor.ended(fence)
    assert sorted(supervisor.output(fence).split()) == [b"MINE=1", b"PATH=/usr/bin"]


def test_nothing_of_the_supervisor_is_open_in_a_task(supervisor: SupervisorDriver) -> None:
    for _ in range(2):  # the first and the later ones of a burst come to life in different ways
        fence = supervisor.start("ls /proc/self/fd | tr '\\n' ' '; readlink /proc/self/fd/0; ulimit -Sn; trap")
        supervisor.ended(fence)
        # The last one is what ls itself opens to look.
        fds, null, *_ = supervisor.output(fence).split(b"\n")[0].split(b" /")
        assert fds == b"0 1 2 3"
        assert null == b"dev/null"


def test_a_task_leads_a_session_of_its_own(supervisor: SupervisorDriver) -> None:
    for _ in range(3):
        fence = supervisor.start("echo $$; cut -d' ' -f6 /proc/$$/stat")
        supervisor.ended(fence)
        pid, session = supervisor.output(fence).split()
        assert pid == session


def test_each_attempt_gets_a_fresh_directory(supervisor: SupervisorDriver) -> None:
    first, second = supervisor.start("pwd; touch file; ls"), supervisor.start("pwd; ls")
    supervisor.ended(first)
    supervisor.ended(second)
    assert supervisor.output(first).split()[1:] == [b"file"]
    assert supervisor.output(second).split()[1:] == []
    assert supervisor.output(first).split()[0] != supervisor.output(second).split()[0]


def test_a_given_directory_is_used_as_it_is(supervisor: SupervisorDriver) -> None:
    fence = supervisor.start("pwd", workdir="/usr")
    supervisor.ended(fence)
    assert supervisor.output(fence) == b"/usr\n"


@pytest.mark.parametrize(
    ("order", "words"),
    [
        ({"argv": ["no-such-program"]}, "no such program in PATH"),
        ({"argv": ["/no/such/program"]}, "No such file or directory"),
        ({"argv": ["/etc/passwd"]}, "Permission denied"),
        ({"argv": ["a\0b"]}, "not a name"),
        ({"argv": ["echo", "a\0b"]}, "null byte"),
        ({"argv": ["true"], "workdir": "/no/such/directory"}, "cannot enter the directory"),
    ],
)
def test_what_cannot_start_says_why(supervisor: SupervisorDriver, order: dict[str, object], words: str) -> None:
    for _ in range(2):
        attempt = supervisor.ended(supervisor.start(**order))  # type: ignore[arg-type]
        assert attempt["outcome"]["kind"] == "START_FAILED"
        assert words in attempt["outcome"]["message"]
        assert attempt["outcome"]["exit_code"] is None
        assert attempt["started_micros"] is None


def test_setup_runs_first_in_the_same_place(supervisor: SupervisorDriver) -> None:
    fence = supervisor.start("cat made; echo $MINE", setup="echo by setup > made; echo setting up", env={"MINE": "x"})
    assert supervisor.outcome(fence)["exit_code"] == 0
    assert supervisor.output(fence) == b"setting up\nby setup\nx\n"
    states = supervisor.states[fence]
    assert (states[0], states[-1]) == ("PREPARING", "ENDED")  # what ends at once is not said to run


def test_a_failing_setup_is_the_outcome(supervisor: SupervisorDriver) -> None:
    fence = supervisor.start("echo never", setup="exit 3")
    outcome = supervisor.outcome(fence)
    assert (outcome["kind"], outcome["exit_code"], outcome["message"]) == ("EXITED", 3, "setup failed")
    assert supervisor.ended(fence)["started_micros"] is None
    assert supervisor.output(fence) == b""


def test_bytes_come_back_as_they_were_written(supervisor: SupervisorDriver) -> None:
    script = (
        "import os,sys; d=os.urandom(3_000_000); os.write(2, __import__('hashlib').sha256(d).hexdigest().encode())\n"
    )
    script += "while d: d=d[os.write(1,d):]"
    fence = supervisor.start(argv=[sys.executable, "-c", script])
    log = supervisor.log(fence)
    assert log["total"] == 3_000_000
    assert log["sha256"].encode() == supervisor.output(fence, "stderr")
    assert hashlib.sha256(supervisor.output(fence)).hexdigest() == log["sha256"]


def test_output_beyond_one_segment_is_whole(supervisor: SupervisorDriver) -> None:
    size = 50 << 20
    fence = supervisor.start(f"head -c {size} /dev/urandom | tee copy; sha256sum copy >&2; rm copy")
    log = supervisor.log(fence)
    assert log["total"] == size
    assert log["sha256"].encode() == supervisor.output(fence, "stderr").split()[0]
    assert hashlib.sha256(supervisor.output(fence)).hexdigest() == log["sha256"]


def test_streams_without_a_byte_are_not_mentioned(supervisor: SupervisorDriver) -> None:
    attempt = supervisor.ended(supervisor.start("echo x"))
    assert [log["stream"] for log in attempt["logs"]] == ["stdout"]


def test_time_marks_are_in_order_and_apart(supervisor: SupervisorDriver) -> None:
    fence = supervisor.start("for i in 1 2 3 4 5; do echo $i; sleep 0.03; done")
    supervisor.ended(fence)
    marks = supervisor.streams[fence, "stdout"]["marks"]
    assert marks[0][0] == 0
    assert len(marks) >= 3
    assert all(later[1] - earlier[1] >= 10_000 for earlier, later in itertools.pairwise(marks))


def test_a_full_spool_makes_the_command_wait(supervisor: SupervisorDriver) -> None:
    size, limit = 6 << 20, 1 << 20
    fence = supervisor.start(f"head -c {size} /dev/zero | tr '\\0' x; echo done >&2", spool_bytes=limit)
    supervisor.written(fence, limit)
    assert supervisor.streams[fence, "stdout"]["end"] == limit
    supervisor.running(fence)
    position = limit
    while position < size - limit:
        supervisor.free(fence, "stdout", position)
        position = min(size, position + limit)
        supervisor.written(fence, min(position, size - 2 * limit))
    supervisor.free(fence, "stdout", size)
    log = supervisor.log(fence)
    assert (log["total"], log["gaps"]) == (size, [])
    assert log["sha256"] == hashlib.sha256(b"x" * size).hexdigest()


def test_a_full_spool_drops_when_the_policy_says_so(supervisor: SupervisorDriver) -> None:
    size, limit = 6 << 20, 1 << 20
    fence = supervisor.start(f"head -c {size} /dev/urandom", spool_bytes=limit, drop_when_full=True)
    log = supervisor.log(fence)
    assert log["total"] == size
    kept = bytearray(supervisor.output(fence).ljust(size, b"\0"))
    for start, end, reason in reversed(log["gaps"]):
        assert reason == "spool_full"
        del kept[start:end]
    assert limit <= len(kept) < size
    assert hashlib.sha256(kept).hexdigest() == log["sha256"]


def test_output_of_what_outlives_the_command_is_kept_until_it_is_stopped(
    supervisor: SupervisorDriver, tag: str
) -> None:
    fence = supervisor.start(f"(trap 'echo bye; exit' TERM; echo hi; sleep {tag} & wait) & sleep 0.2; exit 4")
    assert supervisor.outcome(fence)["exit_code"] == 4
    assert supervisor.output(fence) == b"hi\nbye\n"
    assert sleepers(tag) == []


def test_times_and_usage_are_told(supervisor: SupervisorDriver) -> None:
    script = "import time; b=bytearray(64<<20); t=time.process_time()\nwhile time.process_time()-t<0.2: pass"
    attempt = supervisor.ended(supervisor.start(argv=[sys.executable, "-c", script]))
    assert attempt["ended_micros"] - attempt["started_micros"] >= 0.2 * SECOND
    assert attempt["outcome"]["cpu_micros"] >= 0.2 * SECOND
    assert attempt["outcome"]["max_memory_bytes"] >= 64 << 20


def test_many_short_tasks_all_end_and_leave_no_files(supervisor: SupervisorDriver) -> None:
    fences = [supervisor.start(f"echo {number}; exit {number % 3}") for number in range(200)]
    for number, fence in enumerate(fences):
        assert supervisor.outcome(fence)["exit_code"] == number % 3
        assert supervisor.output(fence) == f"{number}\n".encode()
        supervisor.say({"op": "forget", "fence": fence})
    until(lambda: not os.listdir(supervisor.directory / "attempts"), "every directory is gone")
    pid = supervisor.welcome["pid"]
    children = Path(f"/proc/{pid}/task/{pid}/children")
    until(lambda: len(children.read_text().split()) == 1, "only the guardian is left")


def test_a_big_directory_is_removed_too(supervisor: SupervisorDriver) -> None:
    fence = supervisor.start(
        "mkdir -p a/b; touch a/b/$(seq -s ' a/b/' 100) ; mkdir locked; touch locked/x; chmod 0 locked"
    )
    supervisor.ended(fence)
    supervisor.say({"op": "forget", "fence": fence})
    until(lambda: not os.listdir(supervisor.directory / "attempts"), "the directory is moved away")
    until(lambda: not os.listdir(supervisor.directory / "trash"), "and removed")
