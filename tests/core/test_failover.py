"""What was refused is left alone for a while, longer each time, and never for ever."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from styx_server.core.machines.failover import (
    BOTH,
    ON_DEMAND,
    PREEMPTED,
    PREEMPTED_RULE,
    SPOT,
    Block,
    BlockKey,
    Blocks,
    Refusal,
    seconds_of,
    type_key,
)
from styx_server.core.machines.offer import MachineSize, Offer, Place
from styx_server.core.machines.refusal import RULES, RefusalKind, Scope

NOW = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
HERE = Place(provider="aws", region="us-east-1", zone="us-east-1a")


def an_offer(machine_type: str = "m5.large", *, place: Place = HERE, spot: bool = False, gpu: str = "") -> Offer:
    size = MachineSize(cpus_milli=2000, memory_bytes=2**33, gpu_name=gpu, gpu_count=int(bool(gpu)))
    return Offer(place=place, machine_type=machine_type, size=size, spot=spot, price_micros=1, gpus_attached=bool(gpu))


OFFER = an_offer()
OTHERS = {
    "spot": an_offer(spot=True),
    "type": an_offer("c5.large"),
    "zone": an_offer(place=replace(HERE, zone="us-east-1b")),
    "any_zone": an_offer(place=replace(HERE, zone="")),
    "region": an_offer(place=Place(provider="aws", region="us-west-2", zone="us-west-2a")),
    "provider": an_offer(place=Place(provider="gcp", region="us-east-1", zone="us-east-1a")),
}


def after(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("kind", "blocks_too", "seconds"),
    [
        (RefusalKind.CAPACITY, set(), 120),
        (RefusalKind.QUOTA, {"type", "zone", "any_zone"}, 900),
        (RefusalKind.PERMISSION, {"spot", "type", "zone", "any_zone", "region"}, 600),
        (RefusalKind.CREDENTIALS, {"spot", "type", "zone", "any_zone", "region"}, 300),
        (RefusalKind.BAD_IMAGE, {"type", "zone", "any_zone"}, 3600),
        (RefusalKind.BAD_TYPE, {"zone", "any_zone"}, 21_600),
        (RefusalKind.BAD_REQUEST, {"zone", "any_zone"}, 3600),
        (RefusalKind.UNAVAILABLE, {"spot", "type"}, 5),
        (RefusalKind.TIMEOUT, {"spot", "type"}, 5),
    ],
)
def test_each_refusal_blocks_what_it_speaks_of_and_nothing_else(
    kind: RefusalKind, blocks_too: set[str], seconds: float
) -> None:
    blocks = Blocks()
    block = blocks.refuse(OFFER, Refusal(kind=kind, code="Code", message="words"), NOW)
    assert block is not None
    assert (block.kind, block.code, block.message, block.strikes) == (kind.value, "Code", "words", 1)
    assert block.until == after(seconds)
    assert blocks.why(OFFER, after(seconds - 0.001)) == block
    assert blocks.why(OFFER, after(seconds)) is None
    assert {name for name, offer in OTHERS.items() if blocks.why(offer, NOW)} == blocks_too
    # It reads like a row, and a row reads like it.
    assert Blocks(list(blocks)).why(OFFER, NOW) == block


def test_too_many_calls_block_nothing() -> None:
    blocks = Blocks()
    assert blocks.refuse(OFFER, Refusal(kind=RefusalKind.THROTTLED), NOW) is None
    assert len(blocks) == 0


def test_every_kind_is_in_a_table_above() -> None:
    assert len(RefusalKind) == 10


def test_a_refusal_without_a_zone_blocks_the_type_in_the_region() -> None:
    blocks = Blocks()
    block = blocks.refuse(OTHERS["any_zone"], Refusal(kind=RefusalKind.CAPACITY), NOW)
    assert block is not None
    assert block.key == BlockKey("aws", "us-east-1", "", "m5.large", ON_DEMAND)
    assert blocks.why(OFFER, NOW) == block


def test_the_provider_may_be_more_exact_than_the_rule() -> None:
    blocks = Blocks()
    blocks.refuse(OFFER, Refusal(kind=RefusalKind.CAPACITY, scope=Scope.ZONE), NOW)
    assert blocks.why(OTHERS["type"], NOW) is not None
    late = blocks.refuse(OTHERS["region"], Refusal(kind=RefusalKind.CAPACITY, retry_after_seconds=600), NOW)
    assert late is not None
    assert late.until == after(600)


def test_accelerators_that_are_asked_for_beside_the_type_run_out_by_themselves() -> None:
    blocks = Blocks()
    blocks.refuse(an_offer("n1-standard-8", gpu="T4"), Refusal(kind=RefusalKind.CAPACITY), NOW)
    assert blocks.why(an_offer("n1-standard-8", gpu="T4"), NOW) is not None
    assert blocks.why(an_offer("n1-standard-8", gpu="V100"), NOW) is None
    assert type_key(an_offer("n1-standard-8", gpu="T4")) == "n1-standard-8+T4:1"


def test_each_time_in_a_row_blocks_twice_as_long_and_quiet_forgets() -> None:
    blocks = Blocks()
    now, spans = NOW, []
    for _ in range(7):
        block = blocks.refuse(OFFER, Refusal(kind=RefusalKind.CAPACITY), now)
        assert block is not None
        spans.append((block.until - now).total_seconds())
        now = block.until
    assert spans == [120, 240, 480, 960, 1920, 3600, 3600]
    quiet = now + timedelta(seconds=RULES[RefusalKind.CAPACITY].most_seconds)
    fresh = blocks.refuse(OFFER, Refusal(kind=RefusalKind.CAPACITY), quiet)
    assert fresh is not None
    assert fresh.strikes == 1


def test_calls_that_were_under_way_together_are_one_strike() -> None:
    blocks = Blocks()
    first = blocks.refuse(OFFER, Refusal(kind=RefusalKind.CAPACITY), NOW)
    assert blocks.refuse(OFFER, Refusal(kind=RefusalKind.CAPACITY), after(1)) == first


def test_another_reason_does_not_shorten_what_holds() -> None:
    blocks = Blocks()
    long = blocks.refuse(OFFER, Refusal(kind=RefusalKind.BAD_TYPE), NOW)
    assert blocks.refuse(OFFER, Refusal(kind=RefusalKind.CAPACITY, scope=Scope.TYPE), after(1)) == long
    blocks = Blocks()
    blocks.refuse(OFFER, Refusal(kind=RefusalKind.CAPACITY, scope=Scope.TYPE), NOW)
    longer = blocks.refuse(OFFER, Refusal(kind=RefusalKind.BAD_TYPE), after(1))
    assert longer is not None
    assert (longer.kind, longer.strikes, blocks.why(OFFER, after(2))) == ("bad_type", 1, longer)


def test_where_a_spot_machine_was_taken_back_spot_is_avoided() -> None:
    blocks = Blocks()
    block = blocks.preempt(HERE, NOW)
    assert (block.soft, block.kind, block.key) == (
        True,
        PREEMPTED,
        BlockKey("aws", "us-east-1", "us-east-1a", "", SPOT),
    )
    assert block.until == after(PREEMPTED_RULE.seconds)
    assert block.words == "avoided until 12:30 UTC: a spot machine was taken back there"
    assert {name for name, offer in OTHERS.items() if blocks.why(offer, NOW)} == {"spot"}
    assert blocks.why(OFFER, NOW) is None


def test_where_a_machine_never_called_back_nothing_is_rented_until_it_is_tried_again() -> None:
    blocks = Blocks()
    first = blocks.absent(HERE, NOW)
    assert (first.until - NOW, first.soft) == (timedelta(seconds=120), False)
    assert blocks.why(an_offer(spot=True), NOW) == first
    # That one was to be had again does not say that it will call.
    assert blocks.succeed(an_offer()) == []
    assert blocks.absent(HERE, after(120)).until == after(120 + 240)


def test_a_hard_block_counts_before_a_soft_one() -> None:
    blocks = Blocks()
    spot = OTHERS["spot"]
    blocks.preempt(HERE, NOW)
    hard = blocks.refuse(spot, Refusal(kind=RefusalKind.CAPACITY), NOW)
    assert blocks.why(spot, NOW) == hard
    # Also under the same key: a place without a zone, and a quota for spot in that region.
    whole = replace(HERE, zone="")
    blocks = Blocks([blocks.preempt(whole, NOW)])
    quota = blocks.refuse(spot, Refusal(kind=RefusalKind.QUOTA), NOW)
    assert blocks.preempt(whole, NOW) == quota
    assert blocks.why(spot, NOW) == quota


def test_a_success_clears_what_it_disproves() -> None:
    blocks = Blocks()
    for kind in RefusalKind:
        blocks.refuse(OFFER, Refusal(kind=kind), NOW)
    elsewhere = blocks.refuse(OTHERS["region"], Refusal(kind=RefusalKind.QUOTA), NOW)
    soft = blocks.preempt(HERE, NOW)
    gone = blocks.succeed(OFFER)
    assert BlockKey("aws", spot=BOTH) in gone
    assert blocks.why(OFFER, NOW) is None
    assert list(blocks) == [elsewhere, soft]
    again = blocks.refuse(OFFER, Refusal(kind=RefusalKind.CAPACITY), NOW)
    assert again is not None
    assert again.strikes == 1


def test_what_is_over_and_quiet_is_forgotten() -> None:
    blocks = Blocks()
    block = blocks.refuse(OFFER, Refusal(kind=RefusalKind.UNAVAILABLE), NOW)
    assert block is not None
    assert blocks.forget(after(304)) == []
    assert blocks.forget(after(305)) == [block.key]
    assert len(blocks) == 0


def test_a_kind_that_only_a_newer_server_knows_still_blocks() -> None:
    key = BlockKey("aws", "us-east-1")
    blocks = Blocks([Block(key=key, kind="strike_of_workers", time=NOW, until=after(60))])
    why = blocks.why(OFFER, NOW)
    assert why is not None
    assert why.words == "blocked until 12:01 UTC: strike_of_workers"
    assert blocks.forget(after(3600)) == []


@given(
    kinds=st.lists(st.tuples(st.sampled_from(list(RefusalKind)), st.floats(0, 50_000), st.floats(0, 1e9)), max_size=30)
)
def test_nothing_is_ever_blocked_longer_than_its_rule_says(kinds: list[tuple[RefusalKind, float, float]]) -> None:
    blocks, now = Blocks(), NOW
    for kind, pause, retry_after in kinds:
        now += timedelta(seconds=pause)
        blocks.refuse(OFFER, Refusal(kind=kind, retry_after_seconds=retry_after), now)
        for block in blocks:
            most = RULES[RefusalKind(block.kind)].most_seconds
            assert timedelta(0) < block.until - block.time <= timedelta(seconds=most)
    blocks.succeed(OFFER)
    assert blocks.why(OFFER, now) is None


def test_any_number_of_strikes_is_a_number() -> None:
    assert seconds_of(RULES[RefusalKind.CAPACITY], 10**6) == 3600
