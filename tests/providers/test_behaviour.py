"""What every provider must do, run against each through a double of its cloud.

A behaviour that a provider does not have at all (spot machines at home, a quota where there is none) is skipped with
its reason; everything else holds for all alike.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence

import pytest

from styx_server.core.machines.instance import CloudMachine, MachineState, RentOrder
from styx_server.core.machines.offer import offers_of
from styx_server.core.machines.refusal import RULES, RefusalKind
from styx_server.providers.ports import ProviderError
from tests.providers.market import PAGE, Market

LIVE = {MachineState.STARTING, MachineState.RUNNING}


async def listed(market: Market, order: RentOrder) -> list[CloudMachine]:
    """What the provider says there is under the key of an order."""
    machines = await market.provider.list(market.deployment, order.offer.place.region)
    return [machine for machine in machines if machine.key == order.key]


async def made(market: Market, order: RentOrder) -> list[CloudMachine]:
    """What there really was under the key of an order, ever."""
    return [machine for machine in await market.ledger() if machine.key == order.key]


def ended(machines: Sequence[CloudMachine]) -> bool:
    """Whether a list says that a machine is gone: by naming it as ended, or not at all."""
    return all(machine.state is MachineState.ENDED for machine in machines)


def spot_order(market: Market, key: str) -> RentOrder:
    """An order for a machine that may be taken back."""
    try:
        return market.order(key, spot=True)
    except LookupError as error:
        pytest.skip(f"{market.provider.name} has no spot machines: {error}")


async def refuse(market: Market, kind: RefusalKind) -> None:
    """The next rent is refused, if the provider has words for it."""
    try:
        await market.refuse(kind)
    except LookupError as error:
        pytest.skip(f"{market.provider.name} never says {kind}: {error}")


async def lose_answer(market: Market) -> None:
    """The answer to the next rent is lost, if there is a way from the provider to here on which it can be."""
    try:
        await market.lose_answer()
    except LookupError as error:
        pytest.skip(f"{market.provider.name} loses no answers: {error}")


# Rent.


async def test_a_rented_machine_is_where_the_offer_says_and_answers_to_its_key(market: Market) -> None:
    order = market.order("styx-a1")
    machine = await market.provider.rent(order)
    assert machine.cloud_id
    assert machine.key == order.key
    assert machine.state in LIVE
    assert order.offer.place.covers(machine.place)
    assert not machine.spot


async def test_a_rented_machine_carries_its_tags_from_birth(market: Market) -> None:
    order = market.order("styx-a1")
    await market.provider.rent(order)
    [machine] = await made(market, order)
    assert dict(order.tags).items() <= dict(machine.tags).items()


async def test_a_rented_machine_is_listed_as_it_was_answered(market: Market) -> None:
    order = market.order("styx-a1")
    answered = await market.provider.rent(order)
    await market.settle()
    [machine] = await listed(market, order)
    assert (machine.cloud_id, machine.place, machine.key) == (answered.cloud_id, answered.place, order.key)
    assert machine.state is MachineState.RUNNING
    assert dict(order.tags).items() <= dict(machine.tags).items()
    assert machine.create_time is not None
    assert machine.create_time.tzinfo is not None


async def test_a_spot_machine_says_that_it_is_one(market: Market) -> None:
    order = spot_order(market, "styx-a1")
    assert (await market.provider.rent(order)).spot
    assert [machine.spot for machine in await listed(market, order)] == [True]


async def test_the_same_key_again_is_the_same_machine(market: Market) -> None:
    order = market.order("styx-a1")
    first = await market.provider.rent(order)
    again = await market.provider.rent(order)
    assert again.cloud_id == first.cloud_id
    assert again.key == order.key
    assert len(await made(market, order)) == 1


async def test_the_same_key_is_the_same_machine_also_when_it_runs(market: Market) -> None:
    order = market.order("styx-a1")
    first = await market.provider.rent(order)
    await market.settle()
    assert (await market.provider.rent(order)).cloud_id == first.cloud_id
    assert len(await made(market, order)) == 1


async def test_the_same_key_twice_at_once_is_one_machine(market: Market) -> None:
    order = market.order("styx-a1")
    one, other = await asyncio.gather(market.provider.rent(order), market.provider.rent(order))
    assert one.cloud_id == other.cloud_id
    assert len(await made(market, order)) == 1


async def test_after_a_lost_answer_the_same_key_finds_the_machine(market: Market) -> None:
    order = market.order("styx-a1")
    await lose_answer(market)
    with pytest.raises(ProviderError) as caught:
        await market.provider.rent(order)
    assert not caught.value.fate_known
    [lost] = await made(market, order)
    assert lost.state in LIVE
    assert (await market.provider.rent(order)).cloud_id == lost.cloud_id
    assert len(await made(market, order)) == 1


async def test_a_machine_whose_answer_was_lost_is_on_the_list(market: Market) -> None:
    order = market.order("styx-a1")
    await lose_answer(market)
    with pytest.raises(ProviderError):
        await market.provider.rent(order)
    await market.settle()
    [lost] = await made(market, order)
    assert [machine.cloud_id for machine in await listed(market, order)] == [lost.cloud_id]


async def test_another_key_is_another_machine(market: Market) -> None:
    first = await market.provider.rent(market.order("styx-a1"))
    second = await market.provider.rent(market.order("styx-a2", number=2))
    assert first.cloud_id != second.cloud_id


# Release.


async def test_a_released_machine_is_gone_in_the_end(market: Market) -> None:
    order = market.order("styx-a1")
    machine = await market.provider.rent(order)
    await market.settle()
    await market.provider.release(machine.place, machine.cloud_id)
    await market.settle()
    assert ended(await listed(market, order))
    assert [each.state for each in await made(market, order)] == [MachineState.ENDED]


async def test_a_machine_that_has_just_been_rented_can_be_released(market: Market) -> None:
    order = market.order("styx-a1")
    machine = await market.provider.rent(order)
    await market.provider.release(machine.place, machine.cloud_id)
    await market.settle()
    assert [each.state for each in await made(market, order)] == [MachineState.ENDED]


async def test_a_machine_may_be_released_twice(market: Market) -> None:
    order = market.order("styx-a1")
    machine = await market.provider.rent(order)
    await market.provider.release(machine.place, machine.cloud_id)
    await market.provider.release(machine.place, machine.cloud_id)
    await market.settle()
    await market.provider.release(machine.place, machine.cloud_id)
    assert ended(await listed(market, order))


async def test_a_machine_that_nobody_knows_may_be_released(market: Market) -> None:
    order = market.order("styx-a1")
    machine = await market.provider.rent(order)
    # As the provider forms them, and of one that never was.
    last = machine.cloud_id[-1]
    unknown = machine.cloud_id[:-1] + ("0" if last != "0" else "1")
    await market.provider.release(machine.place, unknown)
    await market.settle()
    assert [each.state for each in await made(market, order)] == [MachineState.RUNNING]


async def test_a_release_touches_no_other_machine(market: Market) -> None:
    kept, left = market.order("styx-a1"), market.order("styx-a2", number=2)
    await market.provider.rent(kept)
    machine = await market.provider.rent(left)
    await market.provider.release(machine.place, machine.cloud_id)
    await market.settle()
    assert [each.state for each in await made(market, kept)] == [MachineState.RUNNING]


# List.


async def test_all_machines_are_listed_beyond_one_page(market: Market) -> None:
    orders = [market.order(f"styx-a{number}", number=number) for number in range(1, 2 * PAGE + 2)]
    for order in orders:
        await market.provider.rent(order)
    machines = await market.provider.list(market.deployment, orders[0].offer.place.region)
    assert sorted(machine.key for machine in machines) == [order.key for order in orders]


async def test_another_deployment_has_a_list_of_its_own(market: Market) -> None:
    order = market.order("styx-a1")
    await market.provider.rent(order)
    assert list(await market.provider.list("another-deployment", order.offer.place.region)) == []


async def test_an_empty_account_has_an_empty_list(market: Market) -> None:
    assert list(await market.provider.list(market.deployment, market.order("styx-a1").offer.place.region)) == []


async def test_machines_of_others_are_not_listed_and_not_touched(market: Market) -> None:
    foreign = await market.plant_foreign()
    order = market.order("styx-a1")
    machine = await market.provider.rent(order)
    machines = await market.provider.list(market.deployment, order.offer.place.region)
    assert [each.cloud_id for each in machines] == [machine.cloud_id]
    await market.provider.release(machine.place, machine.cloud_id)
    await market.settle()
    assert [each.state in LIVE for each in await market.ledger() if each.cloud_id == foreign] == [True]


async def test_a_spot_machine_that_was_taken_back_is_listed_with_the_reason(market: Market) -> None:
    order = spot_order(market, "styx-a1")
    machine = await market.provider.rent(order)
    await market.settle()
    await market.preempt(machine.cloud_id)
    await market.settle()
    assert [(each.state, each.reason) for each in await listed(market, order)] == [(MachineState.ENDED, "preempted")]


# Refusals.


@pytest.mark.parametrize("kind", list(RefusalKind))
async def test_a_refusal_arrives_as_what_it_means(market: Market, kind: RefusalKind) -> None:
    await refuse(market, kind)
    order = market.order("styx-a1")
    with pytest.raises(ProviderError) as caught:
        await market.provider.rent(order)
    assert caught.value.kind is kind
    assert caught.value.code
    assert caught.value.message == str(caught.value)
    assert " " in caught.value.message, "a person can read it"
    if RULES[kind].fate_known:
        assert ended(await made(market, order)), "nothing was rented"


@pytest.mark.parametrize("kind", [kind for kind in RefusalKind if RULES[kind].repeats])
async def test_what_may_be_asked_again_gives_one_machine(market: Market, kind: RefusalKind) -> None:
    await refuse(market, kind)
    order = market.order("styx-a1")
    with pytest.raises(ProviderError):
        await market.provider.rent(order)
    machine = await market.provider.rent(order)
    assert [each.cloud_id for each in await made(market, order)] == [machine.cloud_id]


async def test_after_a_refusal_another_order_is_served(market: Market) -> None:
    await refuse(market, RefusalKind.CAPACITY)
    with pytest.raises(ProviderError):
        await market.provider.rent(market.order("styx-a1"))
    machine = await market.provider.rent(market.order("styx-a2"))
    assert machine.state in LIVE


# Offers and checks.


async def test_offers_have_prices_and_places_of_the_provider(market: Market) -> None:
    entries = await market.provider.offers()
    assert entries
    for entry in entries:
        assert entry.place.provider == market.provider.name
        assert entry.place.region
        assert entry.size.cpus_milli > 0
        assert entry.price_micros is not None or entry.spot_price_micros is not None
        assert entry.fetch_time.tzinfo is not None


async def test_what_is_offered_can_be_rented(market: Market) -> None:
    wanted = market.order("styx-a1").offer
    offers = list(offers_of(await market.provider.offers()))
    found = [each for each in offers if (each.machine_type, each.spot) == (wanted.machine_type, wanted.spot)]
    assert [each for each in found if each.place.covers(wanted.place)], "the order is for an offer that exists"
    assert {each.size for each in found} == {wanted.size}


async def test_no_offer_is_there_twice(market: Market) -> None:
    entries = await market.provider.offers()
    keys = [(each.place, each.machine_type, each.size.gpu_name, each.size.gpu_count) for each in entries]
    assert len(keys) == len(set(keys))


async def test_a_check_says_who_one_is_and_what_was_found(market: Market) -> None:
    report = await market.provider.check()
    assert report.provider == market.provider.name
    assert report.identity
    assert report.findings
    assert report.usable, [finding for finding in report.findings if not finding.good]


# The event loop.


async def test_calls_do_not_hold_the_event_loop(market: Market) -> None:
    order = market.order("styx-a1")
    assert await turns_during(market.provider.rent(order)) > 2
    assert await turns_during(market.provider.list(market.deployment, order.offer.place.region)) > 2


async def turns_during(call: Coroutine[object, object, object]) -> int:
    """How often others got their turn while a call was under way; a call that blocks gives them one or two."""
    turns = 0
    async with asyncio.TaskGroup() as group:
        task = group.create_task(call)
        while not task.done():
            await asyncio.sleep(0)
            turns += 1
    return turns
