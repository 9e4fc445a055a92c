"""Tables for people: columns side by side, as wide as the terminal and no wider. Pure: rows in, lines out.

Cells are plain text (untrusted text has been through `sanitize.plain`); colour is put around a cell after its width is
known. No library, because this is on the path of every `styx status` and libraries for it cost more than gRPC.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from unicodedata import category, combining, east_asian_width

_GAP = "  "
_NARROWEST = 6

COLORS = {"red": 31, "green": 32, "yellow": 33, "blue": 34, "cyan": 36, "dim": 2, "bold": 1}


@dataclass(frozen=True, slots=True)
class Cell:
    """A text, and the colour for it when there is colour."""

    text: str
    color: str = ""


Row = Sequence[Cell | str]


def draw(titles: Sequence[str], rows: Sequence[Row], *, width: int | None, colored: bool) -> list[str]:
    """Draws a table.

    Args:
        titles: of the columns.
        rows: as many cells each as there are titles.
        width: of the terminal; None: as wide as it takes, for a pipe.
        colored: whether to colour.
    """
    cells = [[_cell(each) for each in row] for row in rows]
    widths = [
        max([cell_width(title), *(cell_width(row[index].text) for row in cells)]) for index, title in enumerate(titles)
    ]
    if width is not None:
        widths = fit(widths, width - len(_GAP) * (len(titles) - 1))
    head = [Cell(title, "dim") for title in titles]
    return [_line(row, widths, colored=colored) for row in (head, *cells)]


def fit(widths: Sequence[int], room: int) -> list[int]:
    """Takes from the widest columns until all fit; none gets narrower than a few characters."""
    fitted = list(widths)
    while sum(fitted) > room:
        widest = max(range(len(fitted)), key=lambda index: fitted[index])
        if fitted[widest] <= _NARROWEST:
            break
        others = sum(fitted) - fitted[widest]
        second = max([w for index, w in enumerate(fitted) if index != widest], default=0)
        fitted[widest] = max(room - others, min(second, fitted[widest] - 1), _NARROWEST)
    return fitted


def cell_width(text: str) -> int:
    """How many columns a text takes on a terminal."""
    return len(text) if text.isascii() else sum(_char_width(char) for char in text)


def clip(text: str, width: int) -> str:
    """The text, cut with an ellipsis when it is wider than `width`."""
    if cell_width(text) <= width:
        return text
    kept, used = [], 1
    for char in text:
        used += _char_width(char)
        if used > width:
            break
        kept.append(char)
    return "".join(kept).rstrip() + "…"


def paint(text: str, color: str, *, colored: bool) -> str:
    """The text in a colour."""
    return f"\x1b[{COLORS[color]}m{text}\x1b[0m" if colored and color and text else text


def _cell(value: Cell | str) -> Cell:
    return value if isinstance(value, Cell) else Cell(value)


def _line(row: Sequence[Cell], widths: Sequence[int], *, colored: bool) -> str:
    parts: list[str] = []
    for index, (cell, width) in enumerate(zip(row, widths, strict=True)):
        text = clip(cell.text, width)
        padding = "" if index == len(widths) - 1 else " " * (width - cell_width(text))
        parts.append(paint(text, cell.color, colored=colored) + padding)
    return _GAP.join(parts).rstrip()


def _char_width(char: str) -> int:
    if combining(char) or category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if east_asian_width(char) in "WF" else 1
