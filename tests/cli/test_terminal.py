"""The commands on a terminal: colours, widths, harmless logs, and what Ctrl-C asks."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.memory_service import Running
from tests.support.programs import on_terminal, styx

NASTY = r"printf 'a\033[31mred\033[0m\033]0;title\007\033[2Jb\rc\377\n'"


async def test_logs_on_a_terminal_keep_colours_and_nothing_else(here: Path) -> None:
    await styx(here, "run", "-c", NASTY)
    async with on_terminal(here, "logs", "t1") as terminal:
        assert await terminal.ends() == 0
    assert terminal.seen.replace(b"\r\n", b"\n") == "a\x1b[31mred\x1b[0mb\nc\ufffd\n".encode()


async def test_raw_logs_on_a_terminal_are_what_was_written(here: Path) -> None:
    await styx(here, "run", "-c", NASTY)
    async with on_terminal(here, "logs", "--raw", "t1") as terminal:
        assert await terminal.ends() == 0
    assert b"\x1b]0;title\x07\x1b[2Jb\rc\xff" in terminal.seen


async def test_logs_in_a_pipe_are_what_was_written(here: Path) -> None:
    done = await styx(here, "run", "-c", NASTY)
    assert done.out == b"a\x1b[31mred\x1b[0m\x1b]0;title\x07\x1b[2Jb\rc\xff\n"


async def test_tables_fit_the_terminal_and_are_coloured(here: Path) -> None:
    await styx(here, "run", "--name", "long " * 30, "--", "true")
    async with on_terminal(here, "list", columns=60) as terminal:
        assert await terminal.ends() == 0
    assert b"\x1b[32mSUCCEEDED\x1b[0m" in terminal.seen
    plain = re.sub(rb"\x1b\[[0-9;]*m", b"", terminal.seen).decode()
    assert all(len(line) <= 60 for line in plain.splitlines())


async def test_colour_can_be_refused(here: Path) -> None:
    await styx(here, "run", "--", "true")
    async with on_terminal(here, "list", NO_COLOR="1") as terminal:
        await terminal.ends()
    async with on_terminal(here, "list", "--no-color") as other:
        await other.ends()
    assert b"\x1b" not in terminal.seen + other.seen


async def test_ctrl_c_asks_and_detach_leaves_the_task_alone(here: Path, running: Running) -> None:
    async with on_terminal(here, "run", "-c", "echo begun; sleep 100") as terminal:
        await terminal.shows(b"begun")
        terminal.type(b"\x03")
        await terminal.shows(b"[d]etach")
        terminal.type(b"d\n")
        assert await terminal.ends() == 0
    assert b"styx logs -f t1" in terminal.seen
    assert not running.service.tasks["t1"].cancelled


async def test_ctrl_c_twice_cancels(here: Path, running: Running) -> None:
    async with on_terminal(here, "run", "-c", "echo begun; sleep 100") as terminal:
        await terminal.shows(b"begun")
        terminal.type(b"\x03")
        await terminal.shows(b"[d]etach")
        terminal.type(b"\x03")
        assert await terminal.ends() == 122
    assert running.service.tasks["t1"].cancelled


async def test_after_enter_the_output_goes_on(here: Path) -> None:
    async with on_terminal(here, "run", "-c", "echo begun; sleep 0.5; echo done; exit 3") as terminal:
        await terminal.shows(b"begun")
        terminal.type(b"\x03")
        await terminal.shows(b"[d]etach")
        terminal.type(b"\n")
        assert await terminal.ends() == 3
    assert b"done" in terminal.seen
    assert b"exit code 3" in terminal.seen


async def test_a_watched_list_is_drawn_over_itself_until_ctrl_c(here: Path) -> None:
    async with on_terminal(here, "list", "--watch") as terminal:
        await terminal.shows(b"ID")
        await styx(here, "run", "--name", "newcomer", "--", "true")
        await terminal.shows(b"newcomer")
        await terminal.shows(b"\x1b[H\x1b[J")
        terminal.type(b"\x03")
        assert await terminal.ends() == 0
