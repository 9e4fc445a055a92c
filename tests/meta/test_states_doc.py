"""The page about states says what the programs do: it is made from their tables, and nobody edited it since."""

from __future__ import annotations

from styx_server.core.states import Actor, Cause, Reason
from tools.states_doc import ACTORS, CAUSES, PAGE, REASONS, comments, page


def test_the_page_about_states_is_not_stale() -> None:
    assert PAGE.read_text() == page(), "run `.venv/bin/python -m tools.states_doc`"


def test_every_word_of_a_state_has_its_meaning() -> None:
    assert set(REASONS) == set(Reason) - {Reason.NONE}
    assert set(CAUSES) == set(Cause)
    assert set(ACTORS) == set(Actor)


def test_meanings_come_from_the_comments_of_the_proto() -> None:
    assert comments("State", "Task")["RUNNING"].startswith("An attempt of it executes")
    assert comments("Kind", "Outcome")["EXITED"].startswith("The command exited by itself")
