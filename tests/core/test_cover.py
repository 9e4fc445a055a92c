"""The machines for many tasks are the cheapest that brute force finds."""

from __future__ import annotations

from itertools import combinations_with_replacement

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from styx_server.core.machines.book import OfferBook
from styx_server.core.machines.choose import nothing_blocked
from styx_server.core.machines.cover import Cover, Wanted, cover
from styx_server.core.machines.needs import MachineNeeds, SpotUse
from styx_server.core.machines.offer import MachineSize, Offer, Place


def an_offer(cpus: int, price: int, *, gpus: int = 0, spot: bool = False, region: str = "us-east-1") -> Offer:
    size = MachineSize(cpus_milli=cpus * 1000, memory_bytes=2**40, gpu_name="T4" if gpus else "", gpu_count=gpus)
    place = Place(provider="aws", region=region)
    return Offer(place=place, machine_type=f"m{cpus}-{gpus}", size=size, spot=spot, price_micros=price)


ONE_CPU = (MachineNeeds(cpus_milli=1000, spot=SpotUse.ANY),)
OFFERS = st.lists(st.builds(an_offer, st.integers(1, 9), st.integers(0, 12), spot=st.booleans()), max_size=6)


def by_brute_force(offers: list[Offer], tasks: int, most: int, limit: int | None) -> tuple[int, int, int]:
    """How many are covered, at what price, by how many machines."""
    best = (0, 0, 0)
    for machines in range(1, most + 1):
        for mix in combinations_with_replacement(offers, machines):
            covered = min(tasks, sum(offer.size.cpus_milli // 1000 for offer in mix))
            price = sum(offer.price_micros for offer in mix)
            if limit is None or price <= limit:
                best = min(best, (-covered, price, machines))
    return -best[0], best[1], best[2]


def figures(found: Cover) -> tuple[int, int, int]:
    return found.covered, found.price_micros, found.machines


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(
    offers=OFFERS,
    tasks=st.integers(1, 14),
    most=st.integers(1, 4),
    limit=st.one_of(st.none(), st.integers(0, 30)),
)
def test_the_mix_is_that_of_brute_force(offers: list[Offer], tasks: int, most: int, limit: int | None) -> None:
    wanted = Wanted(needs=ONE_CPU, tasks=tasks, most_machines=most, most_micros=limit)
    found = cover(wanted, OfferBook(offers), nothing_blocked)
    assert figures(found) == by_brute_force(offers, tasks, most, limit)


def test_one_large_machine_beats_several_at_the_same_price() -> None:
    book = OfferBook([an_offer(4, 100), an_offer(16, 400)])
    found = cover(Wanted(needs=ONE_CPU, tasks=16, most_machines=8), book, nothing_blocked)
    assert figures(found) == (16, 400, 1)


def test_as_many_as_can_be_are_taken_when_not_all_can() -> None:
    book = OfferBook([an_offer(4, 100), an_offer(8, 300), an_offer(8, 250, region="us-west-2")])
    found = cover(Wanted(needs=ONE_CPU, tasks=100, most_machines=3), book, nothing_blocked)
    assert figures(found) == (24, 750, 3)


def test_thousands_of_tasks_are_covered_in_groups() -> None:
    book = OfferBook([an_offer(cpus, cpus * 100 + 7) for cpus in (1, 2, 4, 8, 16, 32, 64, 96)])
    found = cover(Wanted(needs=ONE_CPU, tasks=10_000, most_machines=300), book, nothing_blocked)
    assert found.covered == 10_000
    # No more than a hundredth above what cannot be beaten: the price for each task on the best machine.
    assert found.price_micros <= 10_000 * (9607 / 96) * 1.01


def test_nothing_is_rented_for_nothing() -> None:
    book = OfferBook([an_offer(4, 100)])
    assert cover(Wanted(needs=ONE_CPU, tasks=0), book, nothing_blocked) == Cover()
    assert cover(Wanted(needs=ONE_CPU, tasks=1, most_machines=0), book, nothing_blocked) == Cover()
    assert cover(Wanted(needs=(MachineNeeds(cpus_milli=5000),)), book, nothing_blocked) == Cover()


def test_on_demand_is_no_part_of_a_mix_while_spot_is_to_be_had() -> None:
    need = (MachineNeeds(cpus_milli=1000, spot=SpotUse.PREFER),)
    book = OfferBook([an_offer(1, 5, spot=True), an_offer(8, 1)])
    found = cover(Wanted(needs=need, tasks=3, most_machines=3), book, nothing_blocked)
    assert [(pick.choice.offer.spot, pick.machines) for pick in found.picks] == [(True, 3)]


@pytest.mark.parametrize(("ordered", "price"), [(False, 10), (True, 50)])
def test_alternatives_are_mixed_or_go_by_their_order(ordered: bool, price: int) -> None:
    needs = (MachineNeeds(cpus_milli=1000, gpu_count=1), MachineNeeds(cpus_milli=4000))
    book = OfferBook([an_offer(4, 25, gpus=1), an_offer(8, 10)])
    found = cover(Wanted(needs=needs, ordered=ordered, tasks=2, most_machines=2), book, nothing_blocked)
    assert found.price_micros == price
    assert {pick.choice.alternative for pick in found.picks} == ({0} if ordered else {1})


def test_what_can_be_paid_is_rented_when_all_is_too_dear() -> None:
    book = OfferBook([an_offer(4, 100), an_offer(16, 500)])
    wanted = Wanted(needs=ONE_CPU, tasks=100, most_machines=50, most_micros=750)
    found = cover(wanted, book, nothing_blocked)
    assert figures(found) == (28, 700, 7)
