"""Failpoints: what can be said in the variables, and what each action does to a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from styx import failpoints
from styx.failpoints import EXIT_CODE, POINTS, BadFailpoints, Reached
from tests.support.until import until

HERE = "server.submit.committed"
PROGRAM = f"""
import os, sys
from styx import failpoints
failpoints.arm(os.environ)
for number in range(5):
    print(number, flush=True)
    failpoints.hit("{HERE}")
print("done")
"""


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    """No test arms what comes after it."""
    yield
    failpoints.arm({})


def arm(spec: str, **more: str) -> list[str]:
    return failpoints.arm({"STYX_ENABLE_FAILPOINTS": "1", "STYX_FAILPOINTS": spec} | more)


def run(spec: str, marks: Path | None = None) -> subprocess.Popen[bytes]:
    once = {} if marks is None else {"STYX_FAILPOINTS_ONCE_DIR": str(marks)}
    env = {"STYX_ENABLE_FAILPOINTS": "1", "STYX_FAILPOINTS": spec, **once}
    return subprocess.Popen([sys.executable, "-c", PROGRAM], env=env, stdout=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> tuple[int, list[str]]:
    out, _ = process.communicate(timeout=60)
    return process.returncode, out.decode().split()


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("server.submit.comitted:kill", "did you mean server.submit.committed?"),
        ("nothing.like.it:kill", "there is no failpoint 'nothing.like.it'"),
        (HERE, "is not NAME:ACTION"),
        (f"{HERE}:kill@0", "is not NAME:ACTION"),
        (f"{HERE}:kill@1-2", "is not NAME:ACTION"),
        (f"{HERE}:burn", "can kill, exit, stop, pause, error, not 'burn'"),
        (f"{HERE}:pause", "is given seconds"),
        (f"{HERE}:kill:3", "is given seconds"),
        (f"{HERE}:kill; {HERE}:stop", "twice"),
    ],
)
def test_what_makes_no_sense_is_refused(spec: str, words: str) -> None:
    with pytest.raises(BadFailpoints) as caught:
        arm(spec)
    assert words in str(caught.value)


def test_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadFailpoints, match="which is no directory"):
        arm(f"{HERE}:kill", STYX_FAILPOINTS_ONCE_DIR=str(tmp_path / "missing"))


def test_without_the_switch_nothing_is_read() -> None:
    assert failpoints.arm({"STYX_FAILPOINTS": "nonsense"}) == []
    assert failpoints.arm({"STYX_FAILPOINTS": f"{HERE}:error", "STYX_ENABLE_FAILPOINTS": "yes"}) == []
    failpoints.hit(HERE)


def test_what_is_armed_is_told() -> None:
    assert arm(f"{HERE}:kill@3 ; link.end.sent:pause:0.5@2-;") == ["link.end.sent", HERE]


@pytest.mark.parametrize("program", ["styx_server", "styx_agent"])
def test_a_program_with_a_wrong_spec_does_not_start(program: str, tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path), "STYX_ENABLE_FAILPOINTS": "1", "STYX_FAILPOINTS": "x:kill"}
    words = ["--server-url", "http://127.0.0.1:1"] if program == "styx_agent" else []
    done = subprocess.run([sys.executable, "-m", program, *words], env=env, capture_output=True, check=False)
    assert done.returncode == 2
    assert b"there is no failpoint 'x'" in done.stderr


@pytest.mark.parametrize(
    ("spec", "code", "reached"),
    [
        (f"{HERE}:kill", -signal.SIGKILL, 1),
        (f"{HERE}:kill@3", -signal.SIGKILL, 3),
        (f"{HERE}:exit@2", EXIT_CODE, 2),
        (f"{HERE}:error@2", 1, 2),
        (f"{HERE}:kill@9", 0, 6),
        ("link.end.sent:kill", 0, 6),
    ],
)
def test_it_happens_at_the_hit_that_was_named(spec: str, code: int, reached: int) -> None:
    ended, printed = finish(run(spec))
    assert (ended, len(printed)) == (code, reached)


def test_what_left_a_mark_does_not_happen_again(tmp_path: Path) -> None:
    first = run(f"{HERE}:kill@2", tmp_path)
    assert finish(first) == (-signal.SIGKILL, ["0", "1"])
    assert (tmp_path / HERE).read_text() == f"{first.pid} kill\n"
    assert finish(run(f"{HERE}:kill@2", tmp_path))[0] == 0


def test_what_happens_always_leaves_a_line_each_time(tmp_path: Path) -> None:
    assert finish(run(f"{HERE}:pause:0@4-", tmp_path))[0] == 0
    assert len((tmp_path / HERE).read_text().splitlines()) == 2


def test_a_stopped_program_goes_on_when_it_is_told() -> None:
    process = run(f"{HERE}:stop")
    until(lambda: ") T " in Path(f"/proc/{process.pid}/stat").read_text(), "it is stopped")
    os.kill(process.pid, signal.SIGCONT)
    assert finish(process)[0] == 0


async def test_a_pause_is_as_long_as_it_says() -> None:
    arm(f"{HERE}:pause:0.05@1-")
    before = time.monotonic()
    failpoints.hit(HERE)
    await failpoints.reach(HERE)
    assert time.monotonic() - before >= 0.1


async def test_an_error_is_of_the_kind_that_the_place_names() -> None:
    arm(f"{HERE}:error@1-")
    with pytest.raises(Reached):
        failpoints.hit(HERE)
    with pytest.raises(OSError, match=HERE):
        await failpoints.reach(HERE, OSError)


def test_only_the_variables_of_failpoints_are_handed_on() -> None:
    assert failpoints.variables({"STYX_FAILPOINTS": "a", "STYX_TOKEN": "b"}) == {"STYX_FAILPOINTS": "a"}


def test_a_name_says_its_program_its_subject_and_what_was_done() -> None:
    assert {name.split(".")[0] for name in POINTS} == {"server", "link", "supervisor"}
    assert all(len(name.split(".")) == 3 for name in POINTS)
