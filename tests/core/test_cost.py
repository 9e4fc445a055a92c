"""What machines cost, exactly: no millionth is lost or made."""

from __future__ import annotations

from datetime import datetime, timedelta
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from styx_server.core.machines.cost import (
    HOUR_MICROSECONDS,
    Held,
    PriceInterval,
    Span,
    charges,
    cost_of,
    days_of,
    micros,
    share_of,
)
from tests.support.builders import NOW

DOLLAR = 1_000_000


def at(hours: float) -> datetime:
    return NOW + timedelta(hours=hours)


def span(start: float, end: float) -> Span:
    return Span(start=at(start), end=at(end))


def price(start: float, end: float | None, micros_: int = DOLLAR) -> PriceInterval:
    return PriceInterval(start_time=at(start), end_time=None if end is None else at(end), price_micros=micros_)


def held(holder: str, start: float, end: float, share: Fraction) -> Held:
    return Held(holder=holder, span=span(start, end), share=share)


@pytest.mark.parametrize(
    ("prices", "asked", "expected"),
    [
        ([], span(0, 1), 0),
        ([price(0, 1)], span(0, 1), DOLLAR),
        ([price(0, None)], span(0, 2.5), 2_500_000),
        ([price(0, 10)], span(4, 6), 2 * DOLLAR),
        ([price(0, 1)], span(1, 2), 0),
        ([price(5, 6)], span(0, 2), 0),
        ([price(0, 1), price(1, 2, 3 * DOLLAR)], span(0.5, 1.5), 2 * DOLLAR),
        ([price(0, 1 / 3600, 1)], span(0, 1), 0),
        ([price(0, 0.5, 1)], span(0, 1), 0),
        ([price(0, 0.75, 1)], span(0, 1), 1),
        ([price(0, 1000, 1)], span(0, 1000), 1000),
        ([price(0, 1 / 3, 526_000)], span(0, 1), 175_333),
    ],
)
def test_a_machine_costs_its_price_for_as_long_as_it_had_it(
    prices: list[PriceInterval], asked: Span, expected: int
) -> None:
    assert micros(cost_of(prices, asked)) == expected


@pytest.mark.parametrize(
    ("cpus", "gpus", "machine_cpus", "machine_gpus", "expected"),
    [
        (1000, 0, 4000, 0, Fraction(1, 4)),
        (1000, 1, 8000, 2, Fraction(1, 2)),
        (7000, 1, 8000, 8, Fraction(7, 8)),
        (0, 0, 4000, 0, Fraction(0)),
        (9000, 0, 4000, 0, Fraction(1)),
        (1000, 4, 0, 0, Fraction(0)),
    ],
)
def test_the_larger_share_counts(
    cpus: int, gpus: int, machine_cpus: int, machine_gpus: int, expected: Fraction
) -> None:
    assert share_of(cpus, gpus, machine_cpus, machine_gpus) == expected


HALF = Fraction(1, 2)


@pytest.mark.parametrize(
    ("holds", "expected"),
    [
        ([], {None: 2 * DOLLAR}),
        ([held("a", 0, 2, Fraction(1))], {"a": 2 * DOLLAR}),
        ([held("a", 0, 1, HALF)], {"a": 500_000, None: 1_500_000}),
        ([held("a", 0, 2, HALF), held("b", 1, 2, HALF)], {"a": DOLLAR, "b": 500_000, None: 500_000}),
        # Three want half each: each pays a third while all are there.
        ([held(name, 0, 2, HALF) for name in "abc"], dict.fromkeys("abc", 666667)),
        ([held("a", -5, 1, Fraction(1)), held("b", 1, 9, Fraction(1))], {"a": DOLLAR, "b": DOLLAR}),
        ([held("a", 0, 1, HALF), held("a", 1, 2, HALF)], {"a": DOLLAR, None: DOLLAR}),
        ([held("a", 5, 6, HALF)], {None: 2 * DOLLAR}),
        ([held("a", 0, 2, Fraction(0))], {"a": 0, None: 2 * DOLLAR}),
    ],
)
def test_who_holds_a_part_pays_for_it_and_the_rest_is_idle(holds: list[Held], expected: dict[object, int]) -> None:
    sums: dict[object, int] = {}
    for charge in charges([price(0, 2)], holds, span(0, 2)):
        sums[charge.holder] = sums.get(charge.holder, 0) + charge.amount
    assert {holder: micros(amount) for holder, amount in sums.items() if amount or holder == "a"} == expected


def test_a_change_of_price_is_charged_to_who_is_there_then() -> None:
    prices = [price(0, 1), price(1, None, 3 * DOLLAR)]
    holds = [held("a", 0, 1, Fraction(1)), held("b", 1, 2, Fraction(1))]
    assert [(each.holder, micros(each.amount)) for each in charges(prices, holds, span(0, 2))] == [
        ("a", DOLLAR),
        ("b", 3 * DOLLAR),
    ]


def test_a_span_is_cut_at_midnights() -> None:
    days = list(days_of(Span(start=at(-1), end=at(37))))
    assert [day.start.isoformat() for day in days] == [
        "2026-03-01T11:00:00+00:00",
        "2026-03-02T00:00:00+00:00",
        "2026-03-03T00:00:00+00:00",
    ]
    assert days[-1].end == at(37)
    assert list(days_of(Span(start=at(1), end=at(1)))) == []


SECONDS = st.integers(-10, 110)
HOLDS = st.lists(
    st.builds(
        lambda name, start, length, share: Held(
            holder=name,
            span=Span(start=NOW + timedelta(seconds=start), end=NOW + timedelta(seconds=start + length)),
            share=share,
        ),
        st.sampled_from("abc"),
        SECONDS,
        st.integers(0, 60),
        st.fractions(0, 1, max_denominator=16),
    ),
    max_size=8,
)


@given(HOLDS, st.integers(0, 10**8), st.integers(1, 100))
def test_all_charges_add_up_to_the_whole_cost(holds: list[Held], price_micros: int, seconds: int) -> None:
    prices = [PriceInterval(start_time=NOW, end_time=None, price_micros=price_micros)]
    whole = Span(start=NOW, end=NOW + timedelta(seconds=seconds))
    found = list(charges(prices, holds, whole))
    assert sum(charge.amount for charge in found) == cost_of(prices, whole) == price_micros * seconds * 10**6
    assert all(charge.amount >= 0 for charge in found)
    assert timedelta(hours=1) / timedelta(microseconds=1) == HOUR_MICROSECONDS
