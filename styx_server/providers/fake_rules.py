"""How the made-up cloud behaves now: the file `cloud.json` in its folder, which people and tests change as they like.

Read at every call. What is to happen so many times is counted down in the file. Blocks, so call it from a thread.
Next: `fake.py`, which does what it says; `docs/providers/fake.md` explains each word to people.
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from styx_server.core.machines.offer import Place
from styx_server.core.machines.refusal import RefusalKind
from styx_server.providers.ports import ProviderError


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Some of what there is to rent. An empty part means any."""

    region: str = ""
    zone: str = ""
    machine_type: str = ""
    spot: bool | None = None

    def covers(self, place: Place, machine_type: str, *, spot: bool) -> bool:
        """Whether a machine in a zone is meant."""
        return (
            self.region in {"", place.region}
            and self.zone in {"", place.zone}
            and self.machine_type in {"", machine_type}
            and self.spot in {None, spot}
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """The next rents are refused."""

    kind: RefusalKind
    times: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How the cloud behaves.

    Attributes:
        seed: decides everything that is left to chance.
        call_seconds: how long each call takes.
        start_seconds: how long a machine takes to start, least and most.
        notice_seconds: from the notice to the end of a spot machine that is taken back.
        preempt_every_seconds: a spot machine lives about this long; 0: for ever. Decided when it is rented.
        stockouts: what is not to be had now.
        stockout_share: of all types in all zones, this share is not to be had either, and not always the same.
        stockout_seconds: for so long.
        quota: live machines in a region; the key `*` is for regions that are not named.
        max_machines: live machines altogether, for the sake of this computer.
        refuse: what the next rents are told, in this order.
        lose_answers: so many rents are carried out without an answer.
        down: whether no call is answered.
    """

    seed: int = 1
    call_seconds: float = 0.05
    start_seconds: tuple[float, float] = (1.0, 4.0)
    notice_seconds: float = 30.0
    preempt_every_seconds: float = 0.0
    stockouts: tuple[Match, ...] = ()
    stockout_share: float = 0.0
    stockout_seconds: float = 300.0
    quota: Mapping[str, int] = field(default_factory=lambda: {"*": 8})
    max_machines: int = 12
    refuse: tuple[Refusal, ...] = ()
    lose_answers: int = 0
    down: bool = False


class RulesFile:
    """The file `cloud.json`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "cloud.json"

    def read(self) -> Rules:
        """What holds now. The file is made when there is none, so that there is something to change.

        Raises:
            ProviderError: it says something that nobody understands.
        """
        if not self.path.exists():
            with self._alone():
                if not self.path.exists():
                    self.write(Rules())
        return self._read()

    def write(self, rules: Rules) -> None:
        """Replaces the file.

        Raises:
            ProviderError: it cannot be written.
        """
        draft = self.path.with_suffix(".new")
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            draft.write_text(json.dumps(asdict(rules), indent=2) + "\n", encoding="utf-8")
            draft.replace(self.path)
        except OSError as error:
            raise self._unwritable(error) from error

    def take_refusal(self) -> Refusal | None:
        """The next refusal, counted down; None: none is due.

        Raises:
            ProviderError: the file cannot be read or written.
        """
        if not self.read().refuse:
            return None
        with self._alone():
            rules = self._read()
            if not rules.refuse:
                return None
            first, *others = rules.refuse
            left = [replace(first, times=first.times - 1)] if first.times > 1 else []
            self.write(replace(rules, refuse=(*left, *others)))
            return first

    def take_lost_answer(self) -> bool:
        """Whether this answer is to be lost, counted down.

        Raises:
            ProviderError: the file cannot be read or written.
        """
        if self.read().lose_answers <= 0:
            return False
        with self._alone():
            rules = self._read()
            if rules.lose_answers > 0:
                self.write(replace(rules, lose_answers=rules.lose_answers - 1))
            return rules.lose_answers > 0

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else counts now."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _read(self) -> Rules:
        try:
            return self._rules(json.loads(self.path.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise self._wrong(str(error)) from error

    def _unwritable(self, error: OSError) -> ProviderError:
        message = f"{self.path} cannot be written: {error.strerror}; let the server's user write there"
        return ProviderError(RefusalKind.PERMISSION, message, code="CloudFile")

    def _rules(self, values: Any) -> Rules:
        if not isinstance(values, dict):
            raise self._wrong("it is one object, {...}")
        known = [each.name for each in fields(Rules)]
        for name in values.keys() - set(known):
            close = difflib.get_close_matches(name, known, n=1)
            raise self._wrong(f"there is no {name!r}" + (f"; did you mean {close[0]!r}?" if close else ""))
        try:
            return _rules_of(values)
        except (ValueError, TypeError, AttributeError) as error:
            raise self._wrong(str(error)) from error

    def _wrong(self, why: str) -> ProviderError:
        # As if the cloud were down, so that it goes on as soon as the file is right again.
        return ProviderError(RefusalKind.UNAVAILABLE, f"{self.path} is wrong: {why}", code="CloudFile")


def _rules_of(values: Mapping[str, Any]) -> Rules:
    """Rules from what JSON makes of them.

    Raises:
        ValueError: a value is of the wrong kind; TypeError and AttributeError too.
    """
    made: dict[str, Any] = {}
    for name, value in values.items():
        match name:
            case "start_seconds":
                least, most = value
                made[name] = (float(least), float(most))
            case "stockouts":
                made[name] = tuple(Match(**each) for each in value)
            case "refuse":
                made[name] = tuple(Refusal(**{**each, "kind": RefusalKind(each.get("kind"))}) for each in value)
            case "quota":
                made[name] = {str(region): int(most) for region, most in value.items()}
            case "seed" | "max_machines" | "lose_answers":
                made[name] = int(value)
            case "down":
                made[name] = bool(value)
            case _:
                made[name] = float(value)
    return Rules(**made)
