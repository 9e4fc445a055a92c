"""Shows something once, or again whenever it changes: over itself on a terminal, one after the other in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterable
from typing import TYPE_CHECKING

from styx_cli import clock
from styx_cli.render import put_all
from styx_cli.settings import Settings, is_terminal

if TYPE_CHECKING:
    from styx.models import WatchUpdate

_HOME_AND_CLEAR = "\x1b[H\x1b[J"
_SHORTEST_PAUSE = 0.25

Updates = Generator["WatchUpdate", None, None]


def keep_showing(
    settings: Settings, updates: Updates | None, make: Callable[[], Iterable[str]], *, until_ended: bool = False
) -> None:
    """Shows what `make` makes; with `updates`, again after each one. An interrupt ends it: a person has seen enough.

    Args:
        settings: for the format.
        updates: changes, or None to show it once.
        make: the lines as they are now.
        until_ended: stop once every task that the updates speak of has ended; they begin with the tasks as they are.
    """
    if updates is None:
        put_all(make())
        return
    waiting: set[str] = set()
    try:
        if not until_ended:
            _show(settings, make())
        for update in updates:
            _show(settings, make())
            waiting.update(task.id for task in update.tasks)
            waiting.difference_update(task.id for task in update.tasks if task.state.is_terminal)
            if until_ended and update.synced and not waiting:
                return
            clock.pause(_SHORTEST_PAUSE)
    except KeyboardInterrupt:
        pass
    finally:
        updates.close()


def _show(settings: Settings, lines: Iterable[str]) -> None:
    ready = list(lines)
    if settings.is_for_people and is_terminal(sys.stdout):
        sys.stdout.write(_HOME_AND_CLEAR)
    put_all(ready)
    sys.stdout.flush()
