"""Output is bytes: all of them, in order, whatever they are and however many there are."""

from __future__ import annotations

import hashlib
import subprocess
from typing import Any

import pytest

from tests.support.stack import BIN, LONG_SECONDS, Stack, memory_of
from tests.support.until import until

GIB = 1 << 30
MEMORY_BOUND = 200 << 20


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        pytest.param(r"printf 'a\0b\0'", b"a\0b\0", id="NUL"),
        pytest.param(r"printf '\377\376 \303('", b"\xff\xfe \xc3(", id="broken UTF-8"),
        pytest.param("printf 'no newline'", b"no newline", id="no newline at the end"),
        pytest.param("head -c 10485760 /dev/zero | tr '\\0' x", b"x" * 10485760, id="a line of 10 MiB"),
        pytest.param(
            r"printf '\033]0;title\007\033[31mred\033[0m\r\n'", b"\x1b]0;title\x07\x1b[31mred\x1b[0m\r\n", id="escapes"
        ),
        pytest.param("true", b"", id="nothing"),
    ],
)
def test_bytes_come_back_as_they_were_written(stack: Stack, script: str, expected: bytes) -> None:
    task_id = stack.submit("--", "sh", "-c", script)
    assert stack.styx("wait", task_id).code == 0
    assert stack.styx("logs", "--raw", "-f", task_id).out == expected


def test_streams_are_kept_apart(stack: Stack) -> None:
    task_id = stack.submit("--", "sh", "-c", "echo one; echo two >&2; echo three")
    stack.styx("wait", task_id)
    both = stack.styx("logs", task_id)
    assert (both.out, both.err) == (b"one\nthree\n", b"two\n")
    assert stack.styx("logs", "--stderr", task_id).out == b"two\n"
    assert stack.styx("logs", "--stdout", task_id).out == b"one\nthree\n"


def test_tail_shows_the_last_lines_only(stack: Stack) -> None:
    task_id = stack.submit("--", "seq", "1000")
    stack.styx("wait", task_id)
    assert stack.good("logs", "--tail", "3", task_id).split() == ["998", "999", "1000"]


def test_timestamps_stand_before_each_line(stack: Stack) -> None:
    task_id = stack.submit("--", "sh", "-c", "echo a; sleep 0.2; echo b")
    stack.styx("wait", task_id)
    first, second = stack.good("logs", "--timestamps", task_id).splitlines()
    assert first.endswith(" a")
    assert second.endswith(" b")
    assert first.split()[0] < second.split()[0]


def test_a_follower_sees_lines_while_the_task_runs(stack: Stack) -> None:
    task_id = stack.submit("--", "sh", "-c", "echo early; sleep 60")
    with stack.start("logs", "-f", task_id) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == b"early\n"
        assert stack.task(task_id)["state"] == "RUNNING"
        stack.good("cancel", task_id)
        assert follower.wait(LONG_SECONDS) == 0
        follower.stdout.close()


@pytest.mark.timeout(600)
def test_a_gibibyte_of_noise_is_kept_byte_for_byte_within_bounded_memory(own_stack: Stack) -> None:
    stack = own_stack
    script = (
        f"mkfifo a b; sha256sum <a >sum.out & sha256sum <b >sum.err & "
        f"head -c {GIB} /dev/urandom | tee a; head -c 1048576 /dev/urandom | tee b >&2; wait; "
        "mv sum.out sum.err $KEEP"
    )
    keep = stack.folder.parent
    task_id = stack.submit("--env", f"KEEP={keep}", "--", "sh", "-c", script)
    watched = [stack.pid_of("styx_server"), stack.pid_of("styx_agent")]
    slow = stack.start("logs", "-f", "--raw", task_id)
    assert slow.stdout is not None
    largest = 0

    def measure() -> bool:
        nonlocal largest
        slow.stdout.read(1)  # a reader of a few bytes a second
        largest = max(largest, *map(memory_of, watched))
        return bool(stack.task(task_id)["state"] == "SUCCEEDED")

    until(measure, "it has written everything", seconds=LONG_SECONDS)
    slow.kill()
    slow.communicate()
    for stream, flag in (("out", "--stdout"), ("err", "--stderr")):
        written = (keep / f"sum.{stream}").read_text().split()[0]
        assert _digest(stack, flag, task_id) == written
    largest = max(largest, *map(memory_of, watched))
    assert largest < MEMORY_BOUND
    until(lambda: all(log.get("sealed") for log in _logs(stack, task_id)), "both logs are sealed")
    summary = {log["stream"]: log for log in _logs(stack, task_id)}
    assert int(summary["STDOUT"]["totalBytes"]) == GIB


def _logs(stack: Stack, task_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = stack.task(task_id)["attempts"][0]["logs"]
    return found


def _digest(stack: Stack, flag: str, task_id: str) -> str:
    digest = hashlib.sha256()
    words = [str(BIN / "styx"), "logs", "--raw", "-f", flag, task_id]
    with subprocess.Popen(words, env=stack.env, stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        while block := reader.stdout.read(1 << 20):
            digest.update(block)
    assert reader.returncode == 0
    return digest.hexdigest()
