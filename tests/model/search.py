"""Walks all states that can be reached, breadth first, so that the first story that ends badly is a shortest one."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from tests.model.lease import Rules, State, safe, steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a search found.

    Attributes:
        states: how many were visited.
        story: the steps to the first state that is not safe; empty: there is none.
    """

    states: int
    story: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{number:3}. {step}" for number, step in enumerate(self.story, 1)]
        return "\n".join([f"{self.states:,} states", *lines])


def search(rules: Rules) -> Finding:
    """Visits every state that these rules allow, until one is not safe."""
    first = State()
    came_from: dict[State, tuple[State, str] | None] = {first: None}
    waiting = deque([first])
    while waiting:
        state = waiting.popleft()
        for name, after in steps(state, rules):
            if after in came_from:
                continue
            came_from[after] = (state, name)
            if not safe(after):
                return Finding(states=len(came_from), story=_story(after, came_from))
            waiting.append(after)
    return Finding(states=len(came_from))


def _story(last: State, came_from: dict[State, tuple[State, str] | None]) -> tuple[str, ...]:
    story = []
    step = came_from[last]
    while step is not None:
        story.append(step[1])
        step = came_from[step[0]]
    return tuple(reversed(story))
