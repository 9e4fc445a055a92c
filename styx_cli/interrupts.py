"""What Ctrl-C means while a task runs in the foreground: pure decisions. `foreground.py` carries them out.

On a terminal the first one asks whether to detach or to cancel, the second cancels, one more leaves. Without a
terminal, and for SIGTERM, there is nobody to ask: the task is cancelled, and waited for.
"""

from __future__ import annotations

from enum import Enum, auto


class Mood(Enum):
    """Where the conversation is."""

    FOLLOWING = auto()
    ASKING = auto()
    CANCELLING = auto()


class Event(Enum):
    """What happened."""

    INTERRUPT = auto()
    TERMINATE = auto()
    SAID_DETACH = auto()
    SAID_CANCEL = auto()
    SAID_OTHER = auto()


class Action(Enum):
    """What to do about it."""

    NOTHING = auto()
    ASK = auto()
    CANCEL = auto()
    DETACH = auto()
    LEAVE = auto()


def decide(mood: Mood, event: Event, *, interactive: bool) -> tuple[Mood, Action]:
    """The next mood, and what to do."""
    match mood, event:
        case Mood.CANCELLING, Event.INTERRUPT | Event.TERMINATE:
            return Mood.CANCELLING, Action.LEAVE
        case Mood.FOLLOWING, Event.INTERRUPT if interactive:
            return Mood.ASKING, Action.ASK
        case (_, Event.INTERRUPT | Event.TERMINATE) | (Mood.ASKING, Event.SAID_CANCEL):
            return Mood.CANCELLING, Action.CANCEL
        case Mood.ASKING, Event.SAID_DETACH:
            return Mood.FOLLOWING, Action.DETACH
        case Mood.ASKING, _:
            return Mood.FOLLOWING, Action.NOTHING
        case _:
            return mood, Action.NOTHING


def read_answer(text: str) -> Event:
    """What a person typed."""
    match text.strip().lower():
        case "d" | "detach":
            return Event.SAID_DETACH
        case "c" | "cancel":
            return Event.SAID_CANCEL
        case _:
            return Event.SAID_OTHER
