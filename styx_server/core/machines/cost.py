"""What rented machines have cost, and for whom. Pure arithmetic on whole numbers: nothing is lost on the way.

An amount is a price in millionths of a dollar for an hour, times microseconds; `micros` turns it into millionths of a
dollar, once, at the end. An attempt pays for its share of the machine while it holds it: the larger of its shares of
cores and of accelerators. When the shares are more than the whole, each is made smaller alike. What nobody holds is
idle, and belongs to the pool.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from fractions import Fraction
from itertools import pairwise
from typing import Final

HOUR_MICROSECONDS: Final = 3_600_000_000
_MICROSECOND: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceInterval:
    """What an hour of a machine cost for a while. `end_time` None: it goes on."""

    start_time: datetime
    end_time: datetime | None
    price_micros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """From `start`, up to `end` and without it."""

    start: datetime
    end: datetime

    @property
    def microseconds(self) -> int:
        """How long; 0 when it ends before it starts."""
        return max(0, (self.end - self.start) // _MICROSECOND)

    def cut(self, start: datetime, end: datetime | None) -> Span:
        """The part of it that is also between two times."""
        return Span(start=max(self.start, start), end=self.end if end is None else min(self.end, end))


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A share of a machine that somebody held for a while.

    Attributes:
        holder: whoever pays; means nothing here.
        share: from 0 to 1.
    """

    holder: object
    span: Span
    share: Fraction


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """Who pays for what. `holder` None: nobody held it. `amount`: see above. `microseconds`: how long it was held."""

    holder: object | None
    span: Span
    amount: int
    microseconds: int


def micros(amount: int) -> int:
    """An amount as millionths of a dollar, to the nearest."""
    return round(Fraction(amount, HOUR_MICROSECONDS))


def cost_of(prices: Iterable[PriceInterval], span: Span) -> int:
    """What a machine cost in a span of time, as an amount."""
    return sum(price.price_micros * span.cut(price.start_time, price.end_time).microseconds for price in prices)


def share_of(cpus_milli: int, gpus: int, machine_cpus_milli: int, machine_gpus: int) -> Fraction:
    """The share of a machine that is held by who holds so many cores and accelerators of it."""
    shares = [Fraction(0)]
    if machine_cpus_milli > 0:
        shares.append(Fraction(cpus_milli, machine_cpus_milli))
    if machine_gpus > 0:
        shares.append(Fraction(gpus, machine_gpus))
    return min(max(shares), Fraction(1))


def charges(prices: Sequence[PriceInterval], held: Sequence[Held], span: Span) -> Iterator[Charge]:
    """Who pays for a machine in a span of time. The amounts add up to `cost_of`, exactly."""
    for price in prices:
        paid = span.cut(price.start_time, price.end_time)
        if paid.microseconds:
            yield from _charges_at(price.price_micros, held, paid)


def days_of(span: Span) -> Iterator[Span]:
    """A span cut at midnights of its own time zone."""
    start = span.start
    while start < span.end:
        midnight = start.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
        yield Span(start=start, end=min(midnight, span.end))
        start = midnight


def _charges_at(price_micros: int, held: Sequence[Held], paid: Span) -> Iterator[Charge]:
    inside = [(part, each) for each in held if (part := each.span.cut(paid.start, paid.end)).microseconds]
    starts = sorted(inside, key=lambda pair: pair[0].start)
    times = sorted({paid.start, paid.end, *(time for part, _ in inside for time in (part.start, part.end))})
    current: list[tuple[Span, Held]] = []
    upcoming = iter(starts)
    following = next(upcoming, None)
    for start, end in pairwise(times):
        while following is not None and following[0].start <= start:
            current.append(following)
            following = next(upcoming, None)
        current = [pair for pair in current if pair[0].end > start]
        yield from _charges_between(price_micros, [each for _, each in current], Span(start=start, end=end))


def _charges_between(price_micros: int, held: Sequence[Held], span: Span) -> Iterator[Charge]:
    """For a time in which nothing changes."""
    whole = price_micros * span.microseconds
    total = sum((each.share for each in held), Fraction(0))
    scale = 1 / total if total > 1 else Fraction(1)
    amounts = [int(each.share * scale * whole) for each in held]
    # What is lost in rounding is paid by somebody, so that the sum is right.
    rest = whole - sum(amounts)
    if total >= 1:
        amounts[0] += rest
    for each, amount in zip(held, amounts, strict=True):
        yield Charge(holder=each.holder, span=span, amount=amount, microseconds=span.microseconds)
    if total < 1:
        yield Charge(holder=None, span=span, amount=rest, microseconds=span.microseconds)
