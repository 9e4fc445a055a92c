"""A training run on spot machines that are taken back, through the shipped commands and the shipped example."""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.support.stack import LONG_SECONDS, Stack, running_stack
from tests.support.until import until

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "spot-training" / "train.py"
STEPS = 100
PREEMPTIONS = 3


@pytest.fixture
def stack() -> Iterator[Stack]:
    with (
        tempfile.TemporaryDirectory(prefix="styx-spot-") as folder,
        running_stack(Path(folder) / "data", "--agents", "0", "--fake-cloud") as stack,
    ):
        yield stack


def output(stack: Stack, task_id: str, attempt: int) -> str:
    return stack.good("logs", task_id, "--attempt", str(attempt))


def steps(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"^step (\d+) ", text, re.MULTILINE)]


def machines(stack: Stack) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(stack.good("instance", "list", "--all", "-o", "json"))
    return sorted(found, key=lambda machine: int(machine["id"][1:]))


def take_back(stack: Stack) -> None:
    """The cloud takes back every machine that it has rented out."""
    for folder in (stack.folder / "fake-cloud" / "machines").iterdir():
        (folder / "preempt").touch()


def test_the_example_survives_three_preemptions_from_its_checkpoint(stack: Stack) -> None:
    folder = stack.folder.parent
    pace = folder / "pace"
    pace.write_text("0.5")  # so slow that it cannot end before its machine is taken back
    train = (
        f"exec {sys.executable} {EXAMPLE} --checkpoints {folder}/checkpoints --steps {STEPS} --seconds $(cat {pace})"
    )
    task_id = stack.submit("--gpus", "T4:1", "--spot", "--", "sh", "-c", train)
    for attempt in range(1, PREEMPTIONS + 1):

        def is_under_way(number: int = attempt) -> bool:
            done = stack.styx("logs", task_id, "--attempt", str(number))
            return done.code == 0 and len(steps(done.text)) >= 2

        until(is_under_way, f"attempt {attempt} is under way", seconds=LONG_SECONDS)
        if attempt == PREEMPTIONS:
            pace.write_text("0.01")
        take_back(stack)
    task = stack.until_state(task_id, "SUCCEEDED", "FAILED", "LOST")
    assert task["state"] == "SUCCEEDED"
    kinds = [attempt["outcome"]["kind"] for attempt in task["attempts"]]
    assert kinds == ["PREEMPTED"] * PREEMPTIONS + ["EXITED"]
    assert [attempt["cause"] for attempt in task["attempts"]] == ["first"] + ["preempted"] * PREEMPTIONS
    made: list[int] = []
    for attempt in range(1, PREEMPTIONS + 2):
        text = output(stack, task_id, attempt)
        assert f"attempt {attempt} begins behind step {len(made)}" in text
        made += steps(text)
        last = "done" if attempt > PREEMPTIONS else f"told to stop; saved at step {len(made)}"
        assert text.splitlines()[-1] == last
    assert made == list(range(1, STEPS + 1)), "every step once, in all attempts together"
    rented = machines(stack)
    assert [machine.get("reason") for machine in rented[:-1]] == ["preempted"] * PREEMPTIONS
    zones = [machine["offer"]["zone"] for machine in rented]
    assert all(here != there for here, there in pairwise(zones)), zones
