"""Places at which a program can be made to die, stop or fail, to see what becomes of everything then.

    STYX_ENABLE_FAILPOINTS=1 STYX_FAILPOINTS='server.submit.committed:kill' styx up

Compiled in always, armed only when both variables are set; unarmed, a place costs one look into an empty dictionary.
Standard library only and nothing at import, because the supervisor of an agent uses it too. What each name means is in
`docs/failpoints.md`.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

ENABLE: Final = "STYX_ENABLE_FAILPOINTS"
SPEC: Final = "STYX_FAILPOINTS"
ONCE_DIR: Final = "STYX_FAILPOINTS_ONCE_DIR"
EXIT_CODE: Final = 86

POINTS: Final = frozenset({
    "server.lead.won",
    "server.join.committed",
    "link.join.answered",
    "link.hello.sent",
    "server.hello.committed",
    "server.welcome.sent",
    "link.welcome.received",
    "server.beat.committed",
    "server.submit.received",
    "server.submit.committed",
    "server.assign.planned",
    "server.assign.committed",
    "server.assign.sent",
    "link.assign.received",
    "link.assign.passed",
    "supervisor.order.received",
    "supervisor.order.journaled",
    "supervisor.process.forked",
    "supervisor.start.noticed",
    "supervisor.start.told",
    "link.start.sent",
    "server.start.committed",
    "server.report.acked",
    "link.start.acked",
    "supervisor.start.recorded",
    "supervisor.output.spooled",
    "link.log.sent",
    "server.log.received",
    "server.log.committed",
    "server.log.acked",
    "link.log.acked",
    "supervisor.exit.reaped",
    "supervisor.exit.journaled",
    "supervisor.exit.told",
    "link.end.heard",
    "link.end.sent",
    "server.end.received",
    "server.end.committed",
    "link.end.acked",
    "supervisor.forget.received",
    "supervisor.forget.done",
    "server.seal.decided",
    "server.seal.committed",
    "server.cancel.committed",
    "server.stop.sent",
    "link.stop.received",
    "supervisor.stop.received",
    "supervisor.stop.asked",
    "supervisor.stop.killed",
    "server.lost.decided",
    "server.lost.committed",
    "server.rent.intended",
    "server.rent.asking",
    "server.rent.answered",
    "server.rent.recorded",
    "server.release.asking",
    "server.release.answered",
    "server.machine.ending",
})  # fmt: skip
"""Every name, in the order of a task's life: the program, what it is about, what was done last."""

_RULE = re.compile(r"(?P<name>[^:@]+):(?P<action>[a-z]+)(:(?P<seconds>\d+(\.\d+)?))?(@(?P<first>[1-9]\d*)(?P<on>-)?)?")
_ACTIONS = ("kill", "exit", "stop", "pause", "error")


class BadFailpoints(ValueError):
    """The variables say something that has no meaning; the message says what, and what would be right."""


class Reached(Exception):
    """What `error` raises where nothing better was named."""


@dataclass(slots=True, kw_only=True)
class _Armed:
    """What happens at one place.

    Attributes:
        first: the hit that it happens at, counted from 1 in each process.
        on: whether it happens at all later hits too.
    """

    name: str
    action: str
    seconds: float
    first: int
    on: bool
    hits: int = 0


_armed: dict[str, _Armed] = {}
_once_dir: list[str] = []


def arm(environment: Mapping[str, str]) -> list[str]:
    """Reads the variables, once, when a program starts; returns the names that are armed.

    Raises:
        BadFailpoints: one of them makes no sense.
    """
    _armed.clear()
    _once_dir.clear()
    if environment.get(ENABLE) != "1":
        return []
    _armed.update({rule.name: rule for rule in _parse(environment.get(SPEC, ""))})
    if _armed and (directory := environment.get(ONCE_DIR)):
        if not os.path.isdir(directory):  # noqa: PTH112 - the supervisor starts without pathlib
            raise BadFailpoints(f"{ONCE_DIR} is {directory!r}, which is no directory; make it first")
        _once_dir.append(directory)
    return sorted(_armed)


def variables(environment: Mapping[str, str]) -> dict[str, str]:
    """What a program has to hand on to one that it starts with an environment of its own."""
    return {name: environment[name] for name in (ENABLE, SPEC, ONCE_DIR) if name in environment}


def hit(name: str, raises: type[Exception] = Reached) -> None:
    """This place has been reached. In a program with an event loop a `pause` stops all of it; see `reach`.

    Args:
        name: of the place, out of `POINTS`.
        raises: what `error` raises.

    Raises:
        Exception: the place is armed with `error`.
    """
    if name in _armed and (seconds := _fire(_armed[name], raises)):
        from styx import clock

        clock.pause(seconds)


async def reach(name: str, raises: type[Exception] = Reached) -> None:
    """As `hit`, for code on an event loop, which goes on while this place pauses.

    Raises:
        Exception: the place is armed with `error`.
    """
    if name in _armed and (seconds := _fire(_armed[name], raises)):
        from styx import clock

        await clock.sleep(seconds)


def _fire(rule: _Armed, raises: type[Exception]) -> float:
    """Does what the place is armed with, when it is its turn; returns for how many seconds its caller is to pause."""
    if not _is_due(rule):
        return 0.0
    if rule.action == "pause":
        return rule.seconds
    _act(rule, raises)
    return 0.0


def _is_due(rule: _Armed) -> bool:
    rule.hits += 1
    if rule.hits < rule.first or (rule.hits > rule.first and not rule.on):
        return False
    return not _once_dir or _mark(rule)


def _mark(rule: _Armed) -> bool:
    """Writes down that it happens; False when it has happened before, in whichever process."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_APPEND if rule.on else os.O_EXCL)
    try:
        mark = os.open(f"{_once_dir[0]}/{rule.name}", flags, 0o600)
    except FileExistsError:
        return False
    os.write(mark, f"{os.getpid()} {rule.action}\n".encode())
    os.close(mark)
    return True


def _act(rule: _Armed, raises: type[Exception]) -> None:
    match rule.action:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "exit":
            os._exit(EXIT_CODE)
        case _:
            raise raises(f"the failpoint {rule.name} is armed with an error")


def _parse(spec: str) -> list[_Armed]:
    rules = [_rule(text.strip()) for text in spec.split(";") if text.strip()]
    names = [rule.name for rule in rules]
    for name in names:
        if names.count(name) > 1:
            raise BadFailpoints(f"{SPEC} names {name} twice")
    return rules


def _rule(text: str) -> _Armed:
    match = _RULE.fullmatch(text)
    if match is None:
        raise BadFailpoints(f"{SPEC}: {text!r} is not NAME:ACTION, NAME:ACTION@N or NAME:ACTION@N-")
    name, action, seconds = match["name"], match["action"], match["seconds"]
    if name not in POINTS:
        from difflib import get_close_matches

        near = get_close_matches(name, POINTS, n=1)
        raise BadFailpoints(f"{SPEC}: there is no failpoint {name!r}" + (f"; did you mean {near[0]}?" if near else ""))
    if action not in _ACTIONS:
        raise BadFailpoints(f"{SPEC}: {name} can {', '.join(_ACTIONS)}, not {action!r}")
    if (seconds is not None) != (action == "pause"):
        raise BadFailpoints(f"{SPEC}: {text!r}: pause, and nothing else, is given seconds, as in {name}:pause:0.5")
    return _Armed(
        name=name, action=action, seconds=float(seconds or 0), first=int(match["first"] or 1), on=bool(match["on"])
    )
