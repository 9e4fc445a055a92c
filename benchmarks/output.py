"""Output to follow: a file of lines as programs log them, and a command that prints lines that tell when."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

LINE_BYTES = 100
FILE_LINES = 671_089
"""Sixteen times such a file are a GiB and a few bytes."""
_LEVELS = ("DEBUG", "INFO", "INFO", "INFO", "WARNING")
_TALKER = Path(__file__).with_name("talker.py")


def write_lines(path: Path, count: int) -> int:
    """Writes that many lines, the same ones each time; returns their bytes. Zstandard makes a sixth of them."""
    dice = random.Random(4)  # noqa: S311 - not to be guessed, but to be the same again
    with path.open("w", encoding="ascii") as file:
        file.writelines(_line(number, dice) for number in range(count))
    return count * LINE_BYTES


def _line(number: int, dice: random.Random) -> str:
    time = f"2026-01-31T{number // 3_600_000 % 24:02}:{number // 60_000 % 60:02}:{number // 1000 % 60:02}"
    text = f"{time}.{number % 1000:03}Z {dice.choice(_LEVELS)} worker-{dice.randrange(64)} step={number}"
    text += f" loss={dice.random():.6f} seen={dice.getrandbits(32):08x}"
    return f"{text:<{LINE_BYTES - 1}}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Talk:
    """What a talking task prints."""

    writes: int
    lines_per_write: int
    writes_per_second: int

    @property
    def lines(self) -> int:
        """How many in all."""
        return self.writes * self.lines_per_write


def talker(gate: Path, talk: Talk) -> Sequence[str]:
    """The command of a task that prints lines at a steady rate, from the moment when its gate is opened."""
    numbers = (talk.writes, talk.lines_per_write, talk.writes_per_second)
    return [sys.executable, "-I", "-S", str(_TALKER), str(gate), *map(str, numbers)]


@contextmanager
def opened(gate: Path) -> Iterator[None]:
    """Lets everything begin that waits at the gate."""
    # For both, because this end must not wait for another.
    descriptor = os.open(gate, os.O_RDWR)
    try:
        yield
    finally:
        os.close(descriptor)
