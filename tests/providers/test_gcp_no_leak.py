"""Whatever breaks around an order at Google Cloud: one machine for a key at most, and none is left."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from styx_server.core.machines.instance import MachineState, RentOrder
from styx_server.core.machines.offer import Place
from styx_server.core.machines.refusal import RULES
from styx_server.providers.gcp import GcpProvider
from styx_server.providers.ports import ProviderError
from tests.providers.gce_double import GceDouble
from tests.providers.gce_rules import HttpError
from tests.providers.gcp_market import DEPLOYMENT, OFFER, GcpMarket, order, settings_for

REGION = Place(provider="gcp", region="us-central1")


def trouble(double: GceDouble, dice: Random, *, forgetful: bool) -> None:
    """Something goes wrong next, or nothing."""
    status = dice.choice([403, 429, 500, 503, 504])
    reason = {403: "rateLimitExceeded", 429: "rateLimitExceeded"}.get(status, "backendError")
    error = HttpError(status, reason, "scripted")
    match dice.randrange(9):
        case 0:
            double.refuse_call(error)
        case 1:
            double.lose_answers()
        case 2:
            double.refuse_call(error, method="GET", path="/operations/", times=dice.randint(1, 3))
        case 3:
            double.refuse_call(error, method="GET", path="/instances/")
        case 4:
            double.refuse_call(error, method="GET", path="/aggregated/")
        case 5:
            double.refuse_order("ZONE_RESOURCE_POOL_EXHAUSTED", "No resources.")
        case 6:
            double.refuse_order("RESOURCE_OPERATION_RATE_EXCEEDED", "Too fast.", status=403)
        case 7 if forgetful:
            double.forget_requests()
        case _:
            pass


async def ask(provider: GcpProvider, what: RentOrder, double: GceDouble, dice: Random) -> str | None:
    """As the server does it: the same call again while it makes sense. The machine's name, or None: there is none."""
    for _ in range(40):
        # Which zone an order of a region went to is known by its request ids alone, until it is there.
        trouble(double, dice, forgetful=bool(what.offer.place.zone))
        try:
            return (await provider.rent(what)).cloud_id
        except ProviderError as error:
            if not RULES[error.kind].repeats:
                return None
    pytest.fail("never an answer")


@pytest.mark.parametrize("seed", range(20))
async def test_no_machine_is_made_twice_or_left(seed: int, gcp: GcpMarket) -> None:
    dice = Random(seed)  # noqa: S311 - a seed is the point
    other = GcpProvider(settings_for(gcp.double))
    foreign = gcp.double.plant("somebody-elses")
    offer = OFFER if seed % 2 else replace(OFFER, place=REGION)
    orders = [order(f"styx-{seed}-{number}", number=number, offer=offer) for number in range(4)]
    async with asyncio.TaskGroup() as group:
        asked = [
            (what, group.create_task(ask(provider, what, gcp.double, dice)))
            for what in orders
            for provider in (gcp.provider, other)
        ]
    await other.close()
    gcp.double.forgive()
    gcp.double.settle()
    made = Counter(machine.key for machine in await gcp.ledger() if machine.key)
    assert {key: count for key, count in made.items() if count > 1} == {}
    for what, task in asked:
        name = task.result()
        assert name is None or made[what.key] == 1
    listed = await gcp.provider.list(DEPLOYMENT, "us-central1")
    assert {machine.key for machine in listed} == set(made)
    for machine in listed:
        await gcp.provider.release(machine.place, machine.cloud_id)
    gcp.double.settle()
    left = [machine.cloud_id for machine in await gcp.ledger() if machine.state is not MachineState.ENDED]
    assert left == [foreign]
