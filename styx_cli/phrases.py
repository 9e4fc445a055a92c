"""Numbers as people say them: ages, spans, sizes. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

_UNITS = ((86400, "d"), (3600, "h"), (60, "m"))


def span(seconds: float) -> str:
    """`0.4s`, `12s`, `3m12s`, `2h05m`, `4d3h`: the two units that matter."""
    if seconds < 0:
        seconds = 0.0
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600}h"


def ago(then: datetime | None, now: datetime) -> str:
    """`5s ago`; empty when it never was. A time in the future is `now`: two clocks never agree."""
    if then is None:
        return ""
    seconds = (now - then).total_seconds()
    return "now" if seconds < 1 else f"{_one_unit(seconds)} ago"


def _one_unit(seconds: float) -> str:
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"


def size(count: int) -> str:
    """`512 B`, `1.5 KiB`, `8 GiB`."""
    amount, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    text = f"{amount:.1f}".removesuffix(".0")
    return f"{text} {unit}"


def number(value: float) -> str:
    """A number without a tail of zeros: `2`, `0.5`."""
    return f"{value:g}"


def rfc3339(when: datetime) -> str:
    """A time for machines, in UTC with milliseconds: `2026-01-31T10:00:00.123Z`."""
    return when.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
