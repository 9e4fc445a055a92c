"""A working directory is used again only if the attempt before left nothing of itself in it, or on it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from styx_agent.supervisor.trash import Trash
from styx_agent.supervisor.workplaces import Workplaces
from tests.support.supervisor_driver import SupervisorDriver


@pytest.fixture
def workplaces(tmp_path: Path) -> Workplaces:
    return Workplaces(str(tmp_path), Trash(str(tmp_path)))


def test_an_untouched_one_is_used_again(workplaces: Workplaces) -> None:
    first = workplaces.take()
    assert workplaces.take() != first
    workplaces.give_back(first)
    assert workplaces.take() == first


TOUCHES: list[Callable[[str], object]] = [
    lambda path: Path(path, "file").touch(),
    lambda path: Path(path, "directory").mkdir(),
    lambda path: Path(path).chmod(0o777),
    lambda path: Path(path).rmdir(),
]


@pytest.mark.parametrize("touch", TOUCHES, ids=["file", "directory", "mode", "removed"])
def test_any_other_is_not(workplaces: Workplaces, touch: Callable[[str], object]) -> None:
    first = workplaces.take()
    touch(first)
    workplaces.give_back(first)
    again = workplaces.take()
    assert again != first
    assert (os.listdir(again), Path(again).stat().st_mode & 0o7777) == ([], 0o700)


def test_one_that_changed_while_it_was_free_is_not(workplaces: Workplaces) -> None:
    first = workplaces.take()
    workplaces.give_back(first)
    Path(first, "file").touch()
    assert workplaces.take() != first


def test_what_an_earlier_supervisor_left_is_thrown_away(tmp_path: Path) -> None:
    (tmp_path / "work" / "1").mkdir(parents=True)
    (tmp_path / "work" / "1" / "file").touch()
    place = Workplaces(str(tmp_path), Trash(str(tmp_path))).take()
    assert os.listdir(place) == []


def test_each_attempt_finds_its_directory_empty(supervisor: SupervisorDriver) -> None:
    for command in ("pwd", "pwd; ls -A", "pwd; ls -A; mkdir -p a/b; echo x > a/b/c", "pwd; ls -A; touch d", "ls -A"):
        fence = supervisor.start(command)
        assert supervisor.outcome(fence)["exit_code"] == 0
        assert len(supervisor.output(fence).split()) <= 1
    used = supervisor.directory / "work"
    assert all(not os.listdir(used / name) for name in os.listdir(used))
