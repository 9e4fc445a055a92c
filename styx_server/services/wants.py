"""What scheduling found no room for, as told to who rents machines; and what that tells those who wait.

The two never call each other: one writes what waits after each round, the other reads it on its own time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from styx_server.core.states import Reason
from styx_server.core.task import Shape

Verdicts = dict[Shape, tuple[Reason, str]]
"""Why tasks of a shape wait: a word, and a sentence."""


class Wants:
    """What waits for room.

    Args:
        count: how many tasks of a shape are ready.
        wake: asks for another round of scheduling.

    Attributes:
        term: under which this server leads; 0: it does not, and what waits is not known here.
    """

    def __init__(self, count: Callable[[Shape], int], wake: Callable[[], None]) -> None:
        self._count = count
        self._wake = wake
        self._blocked: Mapping[Shape, tuple[Reason, str]] = {}
        self._words: Verdicts = {}
        self.term = 0

    def forget(self) -> None:
        """Another server leads."""
        self.term = 0
        self._blocked, self._words = {}, {}

    def note(self, blocked: Mapping[Shape, tuple[Reason, str]]) -> Verdicts:
        """What found no room in a round, and why; returns what those who wait are told."""
        self._blocked = blocked
        return {shape: self._words.get(shape, verdict) for shape, verdict in blocked.items()}

    def demand(self) -> list[tuple[Shape, int, str | None]]:
        """Shapes that found no room in the last round: how many ready tasks, and why no agent could ever run them.

        None instead of words: one could when it is idle.
        """
        waiting = [
            (shape, self._count(shape), None if why is Reason.CAPACITY else words)
            for shape, (why, words) in self._blocked.items()
        ]
        return [each for each in waiting if each[1]]

    def annotate(self, words: Verdicts) -> None:
        """Why tasks of these shapes wait, where machines have to do with it; from the next round on."""
        if words != self._words:
            self._words = words
            self._wake()
