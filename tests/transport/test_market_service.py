"""Offers, plans, costs and budgets on a real port: pages, bad input, and what is repeated."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from styx.v1 import machines_pb2, tasks_pb2
from styx.v1 import styx_service_pb2 as wire
from styx_server.embedded import PostgresAddress
from styx_server.machinery import Rental
from tests.support.server import running
from tests.support.stall import Stall
from tests.transport.conftest import ADMIN_TOKEN, Port
from tests.transport.test_public_service import Client, refusal

Scope, Period, Group = machines_pb2.Budget.Scope, machines_pb2.Budget.Period, wire.GetCostRequest.GroupBy
BAD = ("INVALID_ARGUMENT", "INVALID_ARGUMENT_FIELD")


@pytest.fixture
async def client(database: PostgresAddress) -> AsyncIterator[Client]:
    """Somebody with a good token, at a server that knows the prices of a stall."""
    async with running(database, rental=Rental(providers={"fake": Stall()})) as server:
        await server.app.access.ensure_admin(ADMIN_TOKEN)
        listening = server.app.grpc_server()
        number = await listening.start("127.0.0.1", 0, None)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{number}") as channel:
            client = Client(Port(server, channel, listening))
            await drained(client.RefreshCatalog(wire.RefreshCatalogRequest(request_id="r1")))
            yield client
        await listening.stop(0)


async def drained(stream: Any) -> list[Any]:
    return [message async for message in stream]


async def test_offers_come_in_pages_and_none_is_missing(client: Client) -> None:
    whole = (await client.ListOffers(wire.ListOffersRequest())).offers
    found, token = [], ""
    while True:
        page = await client.ListOffers(wire.ListOffersRequest(page_size=2, page_token=token))
        found += page.offers
        token = page.next_page_token
        if not token:
            break
    assert found == list(whole)
    assert len(found) == 7
    prices = [offer.hourly_price_micros for offer in found]
    assert prices == sorted(prices)
    other = wire.ListOffersRequest(
        page_token=(await client.ListOffers(wire.ListOffersRequest(page_size=1))).next_page_token
    )
    other.min_cpus = 1
    assert (await refusal(client.ListOffers(other)))[1] == "PAGE_TOKEN_INVALID"


async def test_models_come_in_pages(client: Client) -> None:
    first = await client.ListGpus(wire.ListGpusRequest(page_size=1))
    following = await client.ListGpus(wire.ListGpusRequest(page_size=1, page_token=first.next_page_token))
    assert [model.count for model in (*first.gpus, *following.gpus)] == [1, 4]
    assert following.next_page_token == ""


@pytest.mark.parametrize(
    ("method", "request_", "field"),
    [
        ("ListOffers", wire.ListOffersRequest(min_cpus=-1), "min_cpus"),
        ("ListOffers", wire.ListOffersRequest(min_cpus=float("nan")), "min_cpus"),
        ("ListOffers", wire.ListOffersRequest(infra=["aws", "awz"]), "infra[1]"),
        ("ListOffers", wire.ListOffersRequest(gpus=tasks_pb2.GpuRequest(name="L4")), "gpus.count"),
        ("ListOffers", wire.ListOffersRequest(page_size=-1), "page_size"),
        ("PlanTasks", wire.PlanTasksRequest(), "spec.command"),
        ("PlanTasks", wire.PlanTasksRequest(spec=tasks_pb2.TaskSpec(command="x"), count=-1), "count"),
        ("PlanTasks", wire.PlanTasksRequest(spec=tasks_pb2.TaskSpec(command="x"), count=10_001), "count"),
        ("GetCost", wire.GetCostRequest(group_by=99), "group_by"),  # type: ignore[arg-type]
        ("GetCost", wire.GetCostRequest(group_by=Group.LABEL), "label_key"),
        ("GetCost", wire.GetCostRequest(task_id="x"), "task_id"),
        ("SetBudget", wire.SetBudgetRequest(period=Period.DAY), "scope"),
        ("SetBudget", wire.SetBudgetRequest(scope=Scope.ALL), "period"),
        ("SetBudget", wire.SetBudgetRequest(scope=Scope.ALL, period=Period.DAY, warn_share=2), "warn_share"),
        ("SetBudget", wire.SetBudgetRequest(scope=Scope.POOL, period=Period.DAY), "name"),
    ],
)
async def test_bad_input_is_refused_with_its_field(client: Client, method: str, request_: Any, field: str) -> None:
    assert await refusal(getattr(client, method)(request_)) == (*BAD, [field])


async def test_an_unknown_provider_is_refused_before_anybody_is_asked(client: Client) -> None:
    for stream in (
        client.CheckProviders(wire.CheckProvidersRequest(providers=["fake", "nobody"])),
        client.RefreshCatalog(wire.RefreshCatalogRequest(providers=["nobody"])),
    ):
        code, reason, fields = await refusal(drained(stream))
        assert (code, reason) == BAD
        assert fields[0].startswith("providers[")


async def test_a_plan_is_made_for_alternatives(client: Client) -> None:
    spec = tasks_pb2.TaskSpec(command="x")
    for name in ("H100", "L4"):
        spec.resources.any_of.add().gpus.MergeFrom(tasks_pb2.GpuRequest(name=name, count=1))
    plan = await client.PlanTasks(wire.PlanTasksRequest(spec=spec))
    assert [machines.offer.machine_type for machines in plan.machines] == ["one-l4"]
    assert plan.hourly_price_micros == 800_000
    assert plan.dropped


async def test_budgets_come_in_pages_and_are_set_once(client: Client) -> None:
    names = ["a", "b", "c"]
    for name in names:
        request = wire.SetBudgetRequest(
            scope=Scope.POOL, name=name, period=Period.DAY, limit_micros=5, request_id=f"set-{name}"
        )
        first = await client.SetBudget(request)
        assert await client.SetBudget(request) == first
        assert round(first.warn_share, 6) == 0.8
    found, token = [], ""
    while True:
        page = await client.ListBudgets(wire.ListBudgetsRequest(page_size=2, page_token=token))
        found += [budget.name for budget in page.budgets]
        token = page.next_page_token
        if not token:
            break
    assert found == names


async def test_a_refresh_that_is_repeated_is_answered_alike(client: Client) -> None:
    (answer,) = await drained(client.RefreshCatalog(wire.RefreshCatalogRequest(request_id="r1")))
    assert (answer.provider, answer.entry_count, answer.error) == ("fake", 4, "")
    other = wire.RefreshCatalogRequest(request_id="r1", providers=["fake"])
    assert (await refusal(drained(client.RefreshCatalog(other))))[1] == "REQUEST_ID_REUSED"
