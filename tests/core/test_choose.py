"""The best offer is the one that brute force finds, and whatever is left out is counted with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from styx_server.core.gpu_names import is_meant
from styx_server.core.machines.book import OfferBook, order_of
from styx_server.core.machines.choose import Choice, DropReason, Obstacle, dollars, fits_at_once, nothing_blocked, rank
from styx_server.core.machines.needs import MachineNeeds, SpotUse
from styx_server.core.machines.offer import MachineSize, Offer, Place

GIB = 2**30
EAST = Place(provider="aws", region="us-east-1", zone="us-east-1a")
WEST = Place(provider="aws", region="us-west-2", zone="us-west-2b")
CENTRAL = Place(provider="gcp", region="us-central1", zone="us-central1-a")


@dataclass(frozen=True, slots=True)
class Stop:
    words: str = "blocked until 12:03 UTC: no capacity"
    soft: bool = False


def an_offer(
    machine_type: str = "m5.large",
    dollars_an_hour: float = 1.0,
    *,
    cpus: int = 2,
    gib: int = 8,
    gpus: str = "",
    spot: bool = False,
    place: Place = EAST,
) -> Offer:
    name, _, count = gpus.partition(":")
    size = MachineSize(
        cpus_milli=cpus * 1000,
        memory_bytes=gib * GIB,
        gpu_name=name,
        gpu_count=int(count or bool(name)),
        gpu_memory_bytes=(80 if "80" in name else 16) * GIB if name else 0,
        arch="arm64" if machine_type.startswith("t4g") else "x86_64",
    )
    price = round(dollars_an_hour * 1_000_000)
    return Offer(place=place, machine_type=machine_type, size=size, spot=spot, price_micros=price)


PLACES = st.sampled_from(
    [EAST, WEST, CENTRAL, Place(provider="aws", region="us-east-1"), Place(provider="local", region="here")]
)
AN_OFFER = st.builds(
    an_offer,
    st.sampled_from(["m5.large", "m5.xlarge", "t4g.large"]),
    st.sampled_from([0.5, 1.0, 2.0]),
    cpus=st.sampled_from([1, 2, 4]),
    gib=st.sampled_from([2, 8]),
    gpus=st.sampled_from(["", "", "T4", "T4:4", "A100-80GB:2", "A100"]),
    spot=st.booleans(),
    place=PLACES,
)
OFFERS = st.lists(AN_OFFER, max_size=14)
NEEDS = st.builds(
    MachineNeeds,
    cpus_milli=st.sampled_from([0, 1000, 2000, 4000]),
    memory_bytes=st.sampled_from([0, 2 * GIB, 8 * GIB]),
    gpu_name=st.sampled_from(["", "t4", "A100"]),
    gpu_count=st.sampled_from([0, 0, 1, 2]),
    gpu_memory_bytes=st.sampled_from([0, 0, 40 * GIB]),
    cpus_exact=st.booleans(),
    memory_exact=st.booleans(),
    places=st.lists(st.sampled_from([EAST, Place(provider="aws"), Place(region="us-central1")]), max_size=2).map(tuple),
    machine_types=st.sampled_from([(), (), ("m5.large",), ("m5.large", "t4g.large")]),
    arch=st.sampled_from(["", "x86_64", "arm64"]),
    spot=st.sampled_from(list(SpotUse)),
    max_price_micros=st.sampled_from([None, None, 1_000_000]),
)


def will_do(need: MachineNeeds, offer: Offer) -> bool:
    """The rules once more, plainly; those of spot machines apart."""
    size = offer.size
    enough = size.cpus_milli >= need.cpus_milli and size.memory_bytes >= need.memory_bytes
    exact = (not need.cpus_exact or size.cpus_milli == need.cpus_milli) and (
        not need.memory_exact or size.memory_bytes == need.memory_bytes
    )
    gpus = not need.gpu_count or (
        size.gpu_count >= need.gpu_count
        and is_meant(size.gpu_name, need.gpu_name)
        and size.gpu_memory_bytes >= need.gpu_memory_bytes
    )
    kind = (not need.machine_types or offer.machine_type in need.machine_types) and need.arch in {"", size.arch}
    where = not need.places or any(place.covers(offer.place) for place in need.places)
    cheap = need.max_price_micros is None or offer.price_micros <= need.max_price_micros
    use = {SpotUse.NEVER: not offer.spot, SpotUse.ONLY: offer.spot}.get(need.spot, True)
    return enough and exact and gpus and kind and where and cheap and use


def expected(need: MachineNeeds, offers: Sequence[Offer], stops: dict[Offer, Obstacle]) -> list[Offer]:
    left = [offer for offer in offers if will_do(need, offer) and (offer not in stops or stops[offer].soft)]
    if need.spot is SpotUse.PREFER and any(offer.spot and offer not in stops for offer in left):
        left = [offer for offer in left if offer.spot or offer in stops]
    return sorted(left, key=lambda offer: (offer in stops, order_of(offer)))


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(offers=OFFERS, need=NEEDS, marks=st.lists(st.sampled_from(["", "", "", "hard", "soft"]), max_size=14))
def test_the_ranking_is_that_of_brute_force(offers: list[Offer], need: MachineNeeds, marks: list[str]) -> None:
    stops = {offer: Stop(soft=mark == "soft") for offer, mark in zip(offers, marks, strict=False) if mark}
    ranking = rank([need], OfferBook(offers), stops.get)
    assert [choice.offer for choice in ranking.choices] == expected(need, offers, stops)
    assert ranking.seen == len(offers)
    assert sum(drop.count for drop in ranking.drops[0]) + len(ranking.choices) == len(offers)
    assert bool(ranking.sentence()) == (not ranking.choices)
    for most in (1, 2, 3):
        assert rank([need], OfferBook(offers), stops.get, most=most).choices == ranking.choices[:most]


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    offers=st.lists(AN_OFFER, max_size=14, unique=True),
    needs=st.lists(NEEDS, min_size=1, max_size=3),
    most=st.sampled_from([None, 1, 3]),
)
def test_alternatives_compete_by_price_or_go_by_their_order(
    offers: list[Offer], needs: list[MachineNeeds], most: int | None
) -> None:
    each = [expected(need, offers, {}) for need in needs]
    union = sorted({offer for found in each for offer in found}, key=order_of)
    best = [choice.offer for choice in rank(needs, OfferBook(offers), nothing_blocked, most=most).choices]
    assert sorted(set(best), key=order_of) == union[:most] if len(needs) > 1 else best == each[0][:most]
    first = next((found for found in each if found), [])
    ordered = rank(needs, OfferBook(offers), nothing_blocked, ordered=True, most=most)
    assert {choice.offer for choice in ordered.choices} == set(first[:most])
    assert all(expected(needs[choice.alternative], [choice.offer], {}) for choice in ordered.choices)


@pytest.mark.parametrize(
    ("need", "offer", "reason", "words"),
    [
        (MachineNeeds(gpu_name="A100", gpu_count=1), an_offer(), DropReason.GPU, "have no A100"),
        (MachineNeeds(gpu_count=1), an_offer(), DropReason.GPU, "have no gpu"),
        (MachineNeeds(gpu_name="T4", gpu_count=2), an_offer(gpus="T4"), DropReason.GPU_COUNT, "have fewer than 2 T4"),
        (
            MachineNeeds(gpu_name="A100", gpu_count=1, gpu_memory_bytes=40 * GIB),
            an_offer(gpus="A100"),
            DropReason.GPU_MEMORY,
            "have A100 with less than 40 GiB each",
        ),
        (MachineNeeds(cpus_milli=2500), an_offer(), DropReason.CPUS, "have fewer than 2.5 cpus"),
        (MachineNeeds(cpus_milli=1000, cpus_exact=True), an_offer(), DropReason.CPUS, "do not have just 1 cpus"),
        (MachineNeeds(memory_bytes=9 * GIB), an_offer(), DropReason.MEMORY, "have less than 9 GiB of memory"),
        (
            MachineNeeds(memory_bytes=4 * GIB, memory_exact=True),
            an_offer(),
            DropReason.MEMORY,
            "do not have just 4 GiB of memory",
        ),
        (MachineNeeds(arch="arm64"), an_offer(), DropReason.ARCH, "are not arm64"),
        (
            MachineNeeds(machine_types=("a", "b", "c", "d")),
            an_offer(),
            DropReason.TYPE,
            "are not a or b or c or 1 others",
        ),
        (MachineNeeds(places=(WEST,)), an_offer(), DropReason.PLACE, "are not in aws/us-west-2/us-west-2b"),
        (MachineNeeds(), an_offer(spot=True), DropReason.SPOT, "are spot"),
        (MachineNeeds(spot=SpotUse.ONLY), an_offer(), DropReason.SPOT, "are not spot"),
        (MachineNeeds(max_price_micros=50_000), an_offer(), DropReason.PRICE, "cost more than $0.0500/h"),
    ],
)
def test_what_is_left_out_says_why(need: MachineNeeds, offer: Offer, reason: DropReason, words: str) -> None:
    ranking = rank([need], OfferBook([offer]), nothing_blocked)
    (drop,) = ranking.drops[0]
    assert (drop.reason, drop.words, drop.count, drop.example) == (reason, words, 1, offer)
    assert ranking.sentence() == f"nothing fits: of 1 offers 1 {words}"


def test_the_sentence_counts_and_names_what_came_nearest() -> None:
    book = OfferBook(
        [an_offer(), an_offer("m5.xlarge"), an_offer("p4", 30, gpus="A100:8"), an_offer("p5", 50, gpus="A100-80GB:8")]
    )
    need = MachineNeeds(gpu_name="A100", gpu_count=8, max_price_micros=20_000_000)
    assert rank([need], book, nothing_blocked).sentence() == (
        "nothing fits: of 4 offers 2 have no A100, 2 cost more than $20.00/h; "
        "the nearest is p4 in aws/us-east-1/us-east-1a at $30.00/h"
    )
    two = rank([need, MachineNeeds(arch="riscv")], book, nothing_blocked).sentence()
    assert two.startswith("nothing fits: alternative 1: of 4 offers 2 have no A100")
    assert two.endswith("; alternative 2: of 4 offers 4 are not riscv")


def test_no_offers_at_all_is_said_as_such() -> None:
    assert "no provider has offers" in rank([MachineNeeds()], OfferBook(), nothing_blocked).sentence()


def test_what_is_blocked_says_until_when() -> None:
    ranking = rank([MachineNeeds()], OfferBook([an_offer()]), lambda _: Stop())
    assert ranking.sentence() == "nothing fits: of 1 offers 1 are blocked until 12:03 UTC: no capacity"


def test_what_is_avoided_comes_last_but_comes() -> None:
    cheap, dear = an_offer("m5.large", 1, spot=True), an_offer("m5.xlarge", 2, spot=True)
    stops = {cheap: Stop(soft=True)}
    ranking = rank([MachineNeeds(spot=SpotUse.ONLY)], OfferBook([cheap, dear]), stops.get, most=1)
    assert [choice.offer for choice in ranking.choices] == [dear]
    alone = rank([MachineNeeds(spot=SpotUse.ONLY)], OfferBook([cheap]), stops.get)
    assert alone.choices == (Choice(offer=cheap, fits=1000, avoided=True),)


def test_on_demand_is_taken_only_when_no_spot_machine_is_to_be_had() -> None:
    spot, sure = an_offer("m5.large", 3, spot=True), an_offer("m5.xlarge", 1)
    need = MachineNeeds(spot=SpotUse.PREFER)
    ranking = rank([need], OfferBook([spot, sure]), nothing_blocked)
    assert [choice.offer for choice in ranking.choices] == [spot]
    assert [drop.words for drop in ranking.drops[0]] == ["are on demand, and spot is to be had"]
    hard = rank([need], OfferBook([spot, sure]), {spot: Stop()}.get)
    assert [choice.offer for choice in hard.choices] == [sure]
    soft = rank([need], OfferBook([spot, sure]), {spot: Stop(soft=True)}.get)
    assert [choice.offer for choice in soft.choices] == [sure, spot]


def test_at_one_price_the_machine_that_nobody_takes_away_wins_then_the_smaller_one() -> None:
    spot, large = an_offer(spot=True), an_offer("m5.xlarge", cpus=4)
    small, gpu = an_offer(), an_offer(gpus="T4")
    book = OfferBook([spot, large, gpu, small])
    assert book.offers == (small, large, gpu, spot)


@pytest.mark.parametrize(
    ("need", "size", "fits"),
    [
        (MachineNeeds(cpus_milli=1000), an_offer(cpus=4).size, 4),
        (MachineNeeds(cpus_milli=1500, memory_bytes=GIB), an_offer(cpus=4).size, 2),
        (MachineNeeds(cpus_milli=1000, gpu_count=2), an_offer(cpus=64, gpus="T4:4").size, 2),
        (MachineNeeds(memory_bytes=3 * GIB), an_offer().size, 2),
        (MachineNeeds(), an_offer().size, 1000),
    ],
)
def test_tasks_share_a_machine_as_far_as_all_they_need_goes(need: MachineNeeds, size: MachineSize, fits: int) -> None:
    assert fits_at_once(need, size) == fits


@pytest.mark.parametrize(
    ("name", "wanted", "meant"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100", True),
        ("NVIDIA A100-SXM4-80GB", "A100-80GB", True),
        ("NVIDIA A100-SXM4-40GB", "A100-80GB", False),
        ("A100-80GB", "A100", True),
        ("A10G", "A10", False),
        ("NVIDIA L40S", "L4", False),
        ("Tesla T4", "", True),
    ],
)
def test_one_rule_says_which_accelerator_is_meant(name: str, wanted: str, meant: bool) -> None:
    assert is_meant(name, wanted) is meant


def test_small_prices_keep_the_digits_that_tell_them_apart() -> None:
    assert [dollars(micros) for micros in (0, 4_200, 1_000_000, 32_772_600)] == [
        "$0.00/h",
        "$0.0042/h",
        "$1.00/h",
        "$32.77/h",
    ]
