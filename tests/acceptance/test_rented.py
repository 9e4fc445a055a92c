"""Machines of a made-up cloud, through the shipped commands: rented for what waits, and none is left in the end."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from styx.failpoints import POINTS
from tests.support.stack import LONG_SECONDS, Stack, running_stack
from tests.support.until import until

OF_MACHINES = sorted(name for name in POINTS if name.split(".")[1] in {"rent", "release", "machine"})
CLOUD = ("--agents", "0", "--fake-cloud")


@contextmanager
def a_cloud(*kills: str) -> Iterator[Stack]:
    """A Styx without machines of its own; those that are rented leave when they are idle for a second.

    Args:
        kills: failpoints, at each of which a server is killed once.
    """
    with tempfile.TemporaryDirectory(prefix="styx-cloud-") as folder:
        marks = Path(folder) / "marks"
        marks.mkdir()
        armed = {
            "STYX_ENABLE_FAILPOINTS": "1",
            "STYX_FAILPOINTS": ";".join(f"{name}:kill" for name in kills),
            "STYX_FAILPOINTS_ONCE_DIR": str(marks),
        }
        with running_stack(Path(folder) / "data", *CLOUD, env=armed if kills else {}) as stack:
            stack.good("pool", "update", "default", "--idle", "1s")
            yield stack
            reached = {path.name for path in marks.iterdir()}
            # An agent that was removed ends, and a machine of this cloud with it: perhaps before it is released.
            assert set(kills) - reached <= {"server.release.asking", "server.release.answered"}


def instances(stack: Stack) -> list[dict[str, Any]]:
    """All that were ever rented."""
    found: list[dict[str, Any]] = json.loads(stack.good("instance", "list", "--all", "-o", "json"))
    return found


def all_ended(stack: Stack) -> bool:
    """Whether no machine is left; while a server is down nobody can say."""
    done = stack.styx("instance", "list", "-o", "json")
    return done.code == 0 and json.loads(done.text) == []


def has_succeeded(stack: Stack, task_id: str) -> bool:
    done = stack.styx("status", task_id, "-o", "json")
    return done.code == 0 and json.loads(done.text)["state"] == "SUCCEEDED"


def agents(stack: Stack) -> list[str]:
    """Agents that run, of this Styx."""
    return [line for line in stack.processes().values() if "styx_agent" in line]


def test_a_task_has_its_machine_rented_and_the_machine_leaves_when_it_is_idle() -> None:
    with a_cloud() as stack:
        done = stack.styx("run", "--gpus", "L4:1", "--spot", "--", "sh", "-c", "echo from $STYX_AGENT_ID; exit 3")
        assert (done.code, done.text.strip()) == (3, "from a1"), done.talk
        until(lambda: all_ended(stack), "every machine has ended", seconds=LONG_SECONDS)
        (machine,) = instances(stack)
        assert (machine["state"], machine["reason"], machine["offer"]["spot"]) == ("TERMINATED", "idle", True)
        assert not agents(stack)


# A few at a time: `styx up` starts what dies again and again ever more slowly.
@pytest.mark.parametrize("points", [OF_MACHINES[start::3] for start in range(3)], ids=" ".join)
def test_a_server_that_dies_at_any_step_rents_nothing_twice_and_leaves_nothing_behind(points: list[str]) -> None:
    with a_cloud(*points) as stack:
        for _ in range(2):
            task_id = stack.submit("--gpus", "T4:1", "--", "echo", "done")
            until(functools.partial(has_succeeded, stack, task_id), f"{task_id} succeeds", seconds=LONG_SECONDS)
            until(lambda: all_ended(stack), "every machine has ended", seconds=LONG_SECONDS)
        keys = [folder.name for folder in (stack.folder / "fake-cloud" / "machines").iterdir()]
        assert sorted(keys) == sorted(each["key"] for each in instances(stack) if each["state"] == "TERMINATED")
        assert len(keys) == 2
        assert not agents(stack)
