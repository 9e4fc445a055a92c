"""The pure parts of the command line: tables, phrases, YAML, options, exit codes, interrupts."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import click
import pytest
import yaml as reference
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from styx import errors
from styx.models import Attempt, AttemptState, Outcome, OutcomeKind, Task, TaskState
from styx_cli import yaml
from styx_cli.commands.list import make_filter
from styx_cli.exits import Exit, code_for, code_of_task
from styx_cli.interrupts import Action, Event, Mood, decide, read_answer
from styx_cli.main import COMMANDS, cli
from styx_cli.phrases import ago, number, rfc3339, size, span
from styx_cli.settings import Settings
from styx_cli.tables import Cell, cell_width, clip, draw
from styx_cli.task_options import Script

NOW = datetime(2026, 1, 31, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "0.0s"),
        (0.44, "0.4s"),
        (9.96, "10s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (192, "3m12s"),
        (7500, "2h05m"),
        (357000, "4d3h"),
    ],
)
def test_spans_have_two_units_at_most(seconds: float, words: str) -> None:
    assert span(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(-5, "now"), (0, "now"), (5, "5s ago"), (65, "1m ago"), (7300, "2h ago"), (10**6, "11d ago")]
)
def test_ages_have_one_unit(seconds: float, words: str) -> None:
    assert ago(NOW - timedelta(seconds=seconds), NOW) == words


def test_numbers_sizes_and_times_are_written_as_people_do() -> None:
    assert [size(count) for count in (0, 512, 1536, 8 << 30, 2**63)] == ["0 B", "512 B", "1.5 KiB", "8 GiB", "8192 PiB"]
    assert [number(value) for value in (2.0, 0.5, 0)] == ["2", "0.5", "0"]
    assert rfc3339(NOW) == "2026-01-31T10:00:00.000Z"
    assert ago(None, NOW) == ""


@given(st.lists(st.text(max_size=30), min_size=1, max_size=4), st.integers(30, 120))
def test_a_table_is_never_wider_than_the_terminal(texts: list[str], width: int) -> None:
    cells = [text.replace("\n", "") for text in texts]
    lines = draw(["T"] * len(cells), [cells], width=width, colored=False)
    assert all(cell_width(line) <= width for line in lines)


def test_a_table_keeps_everything_in_a_pipe() -> None:
    assert draw(["A", "B"], [["x" * 500, Cell("y", "red")]], width=None, colored=False)[1] == "x" * 500 + "  y"


def test_wide_characters_are_counted_as_two() -> None:
    assert cell_width("日本") == 4
    assert clip("日本語", 5) == "日本…"
    assert clip("abcdef", 4) == "abc…"


def test_colour_does_not_change_the_layout() -> None:
    painted = draw(["A", "B"], [[Cell("x", "green"), "y"]], width=20, colored=True)[1]
    assert painted == "\x1b[32mx\x1b[0m  y"


_DATA = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12) | st.floats(-1e6, 1e6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


@given(_DATA)
def test_yaml_is_read_back_by_others(data: Any) -> None:
    assert reference.safe_load(yaml.dump(data)) == data


def test_yaml_looks_like_yaml() -> None:
    data = {"id": "t1", "on": "no", "labels": {}, "tries": [{"k": 1, "logs": []}, "x y"]}
    assert yaml.dump(data).splitlines() == [
        "id: t1",
        '"on": "no"',
        "labels: {}",
        "tries:",
        "  - k: 1",
        "    logs: []",
        '  - "x y"',
    ]


def test_filters_are_quoted() -> None:
    text = make_filter(states=["FAILED", "LOST"], labels=[("team", 'a"b\\')], name="x y", terms="id>t100")
    assert text == r'state=FAILED,LOST AND label.team="a\"b\\" AND name="x y" AND id>t100'


def a_task(state: TaskState, **more: Any) -> Task:
    empty = dict.fromkeys(("namespace", "name", "reason", "message", "agent_id", "job_id"), "")
    times = dict.fromkeys(("create_time", "start_time", "end_time"))
    rest: dict[str, Any] = {
        "labels": {},
        "spec": None,
        "exit_code": None,
        "attempts": (),
        "priority": 0,
        "attempt_count": 1,
        "timeline": (),
    }
    return Task(**{"id": "t1", "state": state, **empty, **times, **rest, **more})


def an_outcome(kind: OutcomeKind, signal: int = 0) -> Attempt:
    outcome = Outcome(kind=kind, exit_code=None, signal=signal, message="", cpu_time=None, max_memory_bytes=0)
    return Attempt(
        number=1,
        fence=1,
        state=AttemptState.ENDED,
        agent_id="a1",
        cause="first",
        assign_time=None,
        start_time=None,
        end_time=None,
        outcome=outcome,
        logs=(),
    )


@pytest.mark.parametrize(
    ("task", "code"),
    [
        (a_task(TaskState.SUCCEEDED, exit_code=0), 0),
        (a_task(TaskState.FAILED, exit_code=7), 7),
        (a_task(TaskState.FAILED, attempts=[an_outcome(OutcomeKind.SIGNALED, 15)]), 143),
        (a_task(TaskState.FAILED, attempts=[an_outcome(OutcomeKind.OOM_KILLED)]), 137),
        (a_task(TaskState.FAILED, attempts=[an_outcome(OutcomeKind.START_FAILED)]), 123),
        (a_task(TaskState.FAILED), 123),
        (a_task(TaskState.TIMED_OUT), 121),
        (a_task(TaskState.CANCELLED), 122),
        (a_task(TaskState.LOST), 123),
        (a_task(TaskState.UNKNOWN), 123),
    ],
)
def test_a_task_decides_the_exit_code(task: Task, code: int) -> None:
    assert code_of_task(task) == code


@pytest.mark.parametrize(
    ("error", "passing", "other"),
    [
        (errors.WaitTimedOut("x"), 124, 1),
        (errors.ServerUnreachable("u", "w"), 125, 1),
        (errors.StoreUnavailable("x"), 125, 1),
        (errors.NoServer("x"), 125, 1),
        (errors.InternalError("x"), 125, 1),
        (errors.Unauthenticated("x"), 126, 1),
        (errors.PermissionMissing("x"), 126, 1),
        (errors.TokenUnreadable("x"), 126, 1),
        (errors.TaskNotFound("x"), 127, 1),
        (errors.InvalidRequest("x"), 120, 2),
        (errors.InvalidAddress("u", "w"), 120, 2),
        (errors.RequestIdReused("x"), 120, 1),
        (errors.NotSupported("x"), 120, 1),
    ],
)
def test_an_error_decides_the_exit_code(error: errors.StyxError, passing: int, other: int) -> None:
    assert code_for(error, "run") == code_for(error, "wait") == passing
    assert code_for(error, "status") == code_for(error, "") == other


def test_our_own_codes_do_not_overlap() -> None:
    assert len({int(code) for code in Exit}) == len(list(Exit))


def test_on_a_terminal_the_first_interrupt_asks_and_the_second_cancels() -> None:
    assert decide(Mood.FOLLOWING, Event.INTERRUPT, interactive=True) == (Mood.ASKING, Action.ASK)
    assert decide(Mood.ASKING, Event.INTERRUPT, interactive=True) == (Mood.CANCELLING, Action.CANCEL)
    assert decide(Mood.ASKING, Event.SAID_CANCEL, interactive=True) == (Mood.CANCELLING, Action.CANCEL)
    assert decide(Mood.ASKING, Event.SAID_DETACH, interactive=True)[1] is Action.DETACH
    assert decide(Mood.ASKING, Event.SAID_OTHER, interactive=True) == (Mood.FOLLOWING, Action.NOTHING)
    assert decide(Mood.CANCELLING, Event.INTERRUPT, interactive=True)[1] is Action.LEAVE


def test_without_a_terminal_an_interrupt_cancels() -> None:
    for event in (Event.INTERRUPT, Event.TERMINATE):
        assert decide(Mood.FOLLOWING, event, interactive=False) == (Mood.CANCELLING, Action.CANCEL)
    assert decide(Mood.FOLLOWING, Event.TERMINATE, interactive=True) == (Mood.CANCELLING, Action.CANCEL)


def test_every_pair_of_mood_and_event_is_decided() -> None:
    for mood in Mood:
        for event in Event:
            for interactive in (True, False):
                assert decide(mood, event, interactive=interactive)


@pytest.mark.parametrize(
    ("text", "event"),
    [("d\n", Event.SAID_DETACH), ("Cancel\n", Event.SAID_CANCEL), ("\n", Event.SAID_OTHER), ("", Event.SAID_OTHER)],
)
def test_answers_are_read(text: str, event: Event) -> None:
    assert read_answer(text) is event


def test_a_script_without_an_interpreter_is_a_shell_line() -> None:
    assert Script("/tmp/a.sh", "echo hi\n").command([]) == "echo hi\n"
    assert Script("a.sh", "#!/bin/sh\necho hi\n").command([]) == "#!/bin/sh\necho hi\n"
    assert Script("-", "x").name == "stdin"


def test_a_script_gets_its_arguments_and_its_interpreter() -> None:
    assert Script("/tmp/a.sh", 'echo "$1"').command(["b c"]) == ("/bin/sh", "-c", 'echo "$1"', "a.sh", "b c")
    argv = Script("a.py", "#!/usr/bin/env python3 -u\nprint(1)").command(["x"])
    assert argv[:2] == ("/bin/sh", "-c")
    assert '/usr/bin/env python3 -u "$f" "$@"' in argv[2]
    assert argv[3:] == ("a.py", "#!/usr/bin/env python3 -u\nprint(1)", "x")


@pytest.mark.parametrize("word", COMMANDS)
def test_every_command_shows_examples_before_options(word: str) -> None:
    text = CliRunner().invoke(cli, [word, "--help"], obj=Settings()).output
    assert text.index("Examples:") < text.index("Options")
    assert "--server URL" in text


def test_the_list_of_commands_says_what_each_one_says() -> None:
    with click.Context(cli, obj=Settings()) as context:
        for name, (_, line) in COMMANDS.items():
            command = cli.get_command(context, name)
            assert command is not None
            assert command.name == name
            assert command.callback is not None
            assert line.endswith(".")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "--timeot", "2s", "--", "true"], "--timeout"),
        (["submit", "--memroy", "2GiB", "--", "true"], "--memory"),
        (["sumbit"], "submit"),
        (["agent", "lst"], "list"),
        (["list", "--stat", "x"], "--state"),
        (["--sever", "x", "list"], "--server"),
    ],
)
def test_a_misspelt_word_gets_a_suggestion(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(cli, arguments, obj=Settings())
    assert result.exit_code == 2
    assert "Did you mean" in result.output
    assert words in result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run"], "there is no command"),
        (["run", "-c", "x", "--", "y"], "more than one"),
        (["run", "--timeout", "soon", "--", "x"], "'soon' is not a duration"),
        (["run", "--disconnect-timeout", "x", "--", "y"], "or never"),
        (["run", "--memory", "lots", "--", "x"], "'lots' is not a size"),
        (["run", "--gpus", "x:y", "--", "x"], "accelerators"),
        (["run", "--env", "=x", "--", "x"], "KEY=VALUE"),
        (["run", "--env", "STYX_SURELY_NOT_SET", "--", "x"], "is not set here"),
        (["run", "--label", "x", "--", "x"], "KEY=VALUE"),
        (["run", "--retries", "-1", "--", "x"], "-1"),
        (["list", "--state", "asleep"], "is not a state"),
        (["list", "-o", "xml"], "'xml'"),
        (["submit", "-f", "/no/such/file"], "/no/such/file"),
        (["cancel"], "Missing argument"),
    ],
)
def test_wrong_words_are_explained(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(cli, arguments, obj=Settings())
    assert result.exit_code == 2
    assert words in result.output


def test_global_options_may_stand_before_or_after_the_command() -> None:
    for arguments in (["-o", "json", "version", "--client"], ["version", "--client", "-o", "json"]):
        result = CliRunner().invoke(cli, arguments, obj=Settings())
        assert json.loads(result.output)["client"]
