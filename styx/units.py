"""Text for spans of time, sizes and accelerators, as people write them: `1h30m`, `2GiB`, `A100:2`.

Pure functions over values; raises ValueError with a sentence that names the text and the rule. No imports of ours.
"""

from __future__ import annotations

import re
from datetime import timedelta

_SPAN_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)", re.ASCII)
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGTP]i?)?B?", re.ASCII | re.IGNORECASE)
_SIZE_POWERS = {"K": 1, "M": 2, "G": 3, "T": 4, "P": 5}
_LONGEST_SPAN = timedelta(days=36500)
_LARGEST_SIZE = 2**63 - 1


def parse_duration(text: str) -> timedelta:
    """Reads `500ms`, `2s`, `10m`, `1h30m`, `1.5h`, `2d`; a bare number is seconds.

    Raises:
        ValueError: the text is of another form.
    """
    stripped = text.strip()
    if re.fullmatch(r"\d+(\.\d+)?", stripped, re.ASCII):
        return _span(float(stripped), text)
    parts = _SPAN.findall(stripped)
    if not parts or "".join(number + unit for number, unit in parts) != stripped:
        raise ValueError(f"{text!r} is not a duration; write it like 500ms, 2s, 10m or 1h30m")
    return _span(sum(float(number) * _SPAN_SECONDS[unit] for number, unit in parts), text)


def _span(seconds: float, text: str) -> timedelta:
    if seconds > _LONGEST_SPAN.total_seconds():
        raise ValueError(f"{text!r} is longer than 100 years")
    return timedelta(seconds=seconds)


def parse_size(text: str) -> int:
    """Reads bytes: `512MiB`, `2GiB`, `1.5T`, `1000`. `Ki` and `KiB` are 1024, `K` and `KB` are 1000, and so on.

    Raises:
        ValueError: the text is of another form, or the size does not fit into 63 bits.
    """
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text!r} is not a size; write it like 512MiB, 2GiB or a number of bytes")
    number, unit = match.group(1), (match.group(2) or "").upper()
    if not unit and "." not in number:
        return _checked(int(number[:20]), text)
    step = 1024 if unit.endswith("I") else 1000
    return _checked(float(number) * step ** _SIZE_POWERS.get(unit[:1], 0), text)


def _checked(count: float, text: str) -> int:
    if count > _LARGEST_SIZE:
        raise ValueError(f"{text!r} is too large")
    return int(count)


def parse_exact(text: str) -> tuple[str, bool]:
    """Splits `=4` or `4+` into the amount and whether it is meant exactly; plain `4` means the same as `4+`.

    Raises:
        ValueError: it is both.
    """
    stripped = text.strip()
    exact, least = stripped.startswith("="), stripped.endswith("+")
    if exact and least:
        raise ValueError(f"{text!r} says both exactly and at least; write =4 or 4+")
    return stripped.removeprefix("=").removesuffix("+").strip(), exact


def parse_cpus(text: str) -> float:
    """Reads cores: `4`, `0.5`.

    Raises:
        ValueError: the text is of another form.
    """
    if not re.fullmatch(r"\d{1,9}(\.\d{1,9})?|\.\d{1,9}", text.strip(), re.ASCII):
        raise ValueError(f"{text!r} is not a number of cores; write it like 4, 0.5, 4+ (at least) or =4 (exactly)")
    return float(text)


def parse_gpus(text: str) -> tuple[str, int]:
    """Reads `A100:2`, `A100` or `2` as (name, count); an empty name means any model.

    Raises:
        ValueError: the text is of another form, or the count is zero.
    """
    stripped = text.strip()
    name, colon, count = stripped.rpartition(":")
    if not colon and not stripped.isdecimal():
        name, count = stripped, "1"
    is_count = count.isascii() and count.isdecimal() and len(count) <= 9 and int(count) >= 1
    if not is_count or not stripped or (colon and not name):
        raise ValueError(f"{text!r} is not a number of accelerators; write it like A100:2, A100 or 2")
    return name, int(count)
