"""Wrong input gets one clear error, an exit code of the contract, and changes nothing."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

import styx
from tests.support.programs import Finished
from tests.support.stack import Stack


def _tasks(stack: Stack) -> int:
    return len(stack.good("list", "--all", "-o", "name").split())


def _refused(stack: Stack, *words: str, stdin: bytes = b"", **env: str) -> Finished:
    before = _tasks(stack)
    done = stack.styx(*words, stdin=stdin, **env)
    assert done.code != 0
    assert "Traceback" not in done.talk
    assert _tasks(stack) == before
    return done


def test_no_server() -> None:
    with tempfile.TemporaryDirectory() as folder:
        lonely = Stack(Path(folder))
        done = lonely.styx("run", "--", "true")
        assert done.code == 125
        assert "styx up" in done.talk
        there = lonely.styx("status", "--server", "http://127.0.0.1:1", "--token", "x")
        assert there.code != 0
        assert "127.0.0.1:1" in there.talk


def test_wrong_token(stack: Stack) -> None:
    done = _refused(stack, "--token", "styx_admin_wrong", "submit", "--", "true")
    assert "token" in done.talk


@pytest.mark.parametrize("word", ["t999999999", "nonsense", "t-1", "t1e9"])
def test_unknown_id(stack: Stack, word: str) -> None:
    assert word in _refused(stack, "status", word).talk


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        pytest.param(("submit", "-c", ""), "empty", id="empty command"),
        pytest.param(("submit",), "", id="no command"),
        pytest.param(("submit", "--cpus", "-1", "--", "true"), "cpus", id="negative cpus"),
        pytest.param(("submit", "--cpus", "nan", "--", "true"), "cpus", id="cpus that are no number"),
        pytest.param(("submit", "--name", "a\x1b]0;x\x07b", "--", "true"), "name", id="escapes in a name"),
        pytest.param(("submit", "--name", "x" * 201, "--", "true"), "200", id="a long name"),
        pytest.param(("submit", "--timeout", "soon", "--", "true"), "timeout", id="a timeout that is no time"),
        pytest.param(("submit", "--env", "1X=2", "--", "true"), "1X", id="a variable that is no name"),
        pytest.param(("submit", "--priorty", "1", "--", "true"), "--priority", id="a misspelt option"),
        pytest.param(("sumbit", "--", "true"), "submit", id="a misspelt command"),
        pytest.param(("list", "--filter", "colour=red"), "colour", id="an unknown filter field"),
        pytest.param(("wait", "--timeout", "-1s", "t1"), "timeout", id="a negative wait"),
    ],
)
def test_wrong_words(stack: Stack, words: tuple[str, ...], hint: str) -> None:
    done = _refused(stack, *words)
    assert hint in done.talk
    assert "\x1b" not in done.talk


def test_a_command_of_a_mebibyte_is_refused_with_the_limit(stack: Stack) -> None:
    done = _refused(stack, "submit", "-f", "-", stdin=b"#" * (1 << 20))
    assert "131,071" in done.talk or "262,144" in done.talk


def test_a_batch_with_one_bad_task_stores_none_and_names_the_index(stack: Stack) -> None:
    before = _tasks(stack)
    good, bad = styx.TaskSpec(command="true"), styx.TaskSpec(command="")
    with styx.Client(data_dir=stack.folder) as client, pytest.raises(styx.StyxError) as refused:
        client.submit_tasks([good, good, bad, good])
    assert "specs[2]" in str(refused.value)
    assert _tasks(stack) == before
