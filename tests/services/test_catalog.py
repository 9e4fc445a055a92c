"""What there is to rent is kept, replaced as a whole or not at all, and read from memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from styx_server.clock import SystemClock
from styx_server.core.errors import Conflict, InvalidRequest
from styx_server.core.machines.needs import MachineNeeds, SpotUse
from styx_server.core.machines.offer import CatalogEntry, MachineSize, Place
from styx_server.core.machines.refusal import RefusalKind
from styx_server.embedded import PostgresAddress
from styx_server.providers import seed
from styx_server.providers.ports import CheckReport, ProviderError
from styx_server.services.catalog import Catalog
from styx_server.services.tasks import Mutation
from styx_server.store.database import Database, connect

NOW = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
GIB = 2**30
ANY = MachineNeeds(spot=SpotUse.ANY)
HEAD = (
    "InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,GpuInfo,Price,SpotPrice,Region,AvailabilityZone,Arch"
)


def an_entry(
    machine_type: str, price: int, *, region: str = "us-east-1", spot: int | None = None, gpus: str = ""
) -> CatalogEntry:
    name, _, count = gpus.partition(":")
    size = MachineSize(
        cpus_milli=2000,
        memory_bytes=8 * GIB,
        gpu_name=name,
        gpu_count=int(count or 0),
        gpu_memory_bytes=16 * GIB if name else 0,
    )
    return CatalogEntry(
        place=Place(provider="aws", region=region),
        machine_type=machine_type,
        size=size,
        price_micros=price,
        spot_price_micros=spot,
        fetch_time=NOW,
    )


@dataclass
class StandIn:
    """A provider that offers what it is told to."""

    answer: Sequence[CatalogEntry] | ProviderError
    name: str = "aws"

    async def offers(self) -> Sequence[CatalogEntry]:
        if isinstance(self.answer, ProviderError):
            raise self.answer
        return self.answer

    async def rent(self, order: object) -> object:
        raise NotImplementedError

    async def release(self, place: Place, cloud_id: str) -> None:
        raise NotImplementedError

    async def list(self, deployment: str, region: str) -> object:
        raise NotImplementedError

    async def check(self) -> CheckReport:
        raise NotImplementedError

    async def close(self) -> None:
        pass


@pytest.fixture
async def store(database: PostgresAddress) -> AsyncIterator[Database]:
    store = await connect(**database.arguments())
    yield store
    await store.close()


def a_catalog(store: Database, *providers: str, regions: Sequence[str] = ()) -> Catalog:
    return Catalog(store, SystemClock(), regions=dict.fromkeys(providers or ("aws",), regions))


async def types(catalog: Catalog) -> list[str]:
    return [str(offer) for offer in (await catalog.book()).offers]


async def test_configured_providers_start_with_the_seed_and_others_with_nothing(store: Database) -> None:
    catalog = a_catalog(store, "aws", "kubernetes")
    await catalog.plant()
    (source,) = await catalog.sources()
    entries = seed.entries("aws")
    assert (source.provider, source.source, source.entries) == ("aws", "seed", len(entries))
    assert source.fetch_time == seed.as_of()
    book = await catalog.book()
    assert len(book) == 2 * len(entries)
    assert all(offer.estimate for offer in book.offers)


async def test_of_the_seed_too_only_those_types_are_offered_that_the_operator_allows(store: Database) -> None:
    allowed = {"aws": ("m5.large", "g4dn.*")}
    catalog = Catalog(store, SystemClock(), regions={"aws": ("us-east-1",)}, machine_types=allowed)
    await catalog.plant()
    found = {offer.machine_type for offer in (await catalog.book()).offers}
    assert {"m5.large", "g4dn.xlarge"} <= found
    assert all(name == "m5.large" or name.startswith("g4dn.") for name in found)


async def test_several_servers_plant_one_seed(store: Database) -> None:
    await asyncio.gather(*(a_catalog(store, "aws", "gcp").plant() for _ in range(4)))
    catalog = a_catalog(store, "aws", "gcp")
    assert [source.version for source in await catalog.sources()] == [1, 1]
    assert len(await catalog.book()) == 2 * (len(seed.entries("aws")) + len(seed.entries("gcp")))


async def test_the_seed_does_not_replace_what_is_known_better(store: Database) -> None:
    catalog = a_catalog(store)
    await catalog.refresh(StandIn([an_entry("m5.large", 96_000)]))
    await catalog.plant()
    assert await types(catalog) == ["m5.large in aws/us-east-1"]


async def test_an_answer_replaces_all_that_was_known_of_its_provider_and_no_other(store: Database) -> None:
    catalog = a_catalog(store, "aws", "gcp")
    await catalog.plant()
    before = await catalog.book()
    answer = [an_entry("m5.large", 96_000, spot=40_000), an_entry("m5.xlarge", 192_000, spot=80_000)]
    replaced = await catalog.refresh(StandIn(answer))
    assert (replaced.entries, replaced.error) == (2, "")
    book = await catalog.book()
    assert [str(offer) for offer in book.offers if offer.place.provider == "aws"] == [
        "m5.large spot in aws/us-east-1",
        "m5.xlarge spot in aws/us-east-1",
        "m5.large in aws/us-east-1",
        "m5.xlarge in aws/us-east-1",
    ]
    assert [offer for offer in book.offers if offer.place.provider == "gcp"] == [
        offer for offer in before.offers if offer.place.provider == "gcp"
    ]
    assert [(source.provider, source.source, source.version) for source in await catalog.sources()] == [
        ("aws", "provider", 2),
        ("gcp", "seed", 1),
    ]


async def test_the_book_is_built_anew_only_when_something_was_replaced(store: Database) -> None:
    catalog, other = a_catalog(store), a_catalog(store)
    await catalog.refresh(StandIn([an_entry("m5.large", 96_000)]))
    book = await catalog.book()
    assert await catalog.book() is book
    await other.refresh(StandIn([an_entry("m5.large", 99_000)]))
    again = await catalog.book()
    assert again is not book
    assert again.offers[0].price_micros == 99_000


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ([], "aws says that it rents out nothing"),
        ([replace(an_entry("n2", 1), place=Place(provider="gcp", region="x"))], "which is not its own"),
        ([an_entry(f"t{index}", index) for index in range(49)], "names 49 types and places, it had 100"),
        (ProviderError(RefusalKind.PERMISSION, "aws may not list types; allow it"), "aws may not list types; allow it"),
    ],
)
async def test_an_answer_that_is_not_believed_changes_nothing(
    store: Database, answer: list[CatalogEntry] | ProviderError, words: str
) -> None:
    catalog = a_catalog(store)
    await catalog.refresh(StandIn([an_entry(f"t{index}", index) for index in range(100)]))
    replaced = await catalog.refresh(StandIn(answer))
    assert words in replaced.error
    assert replaced.entries == 100
    assert len(await catalog.book()) == 100
    assert [source.version for source in await catalog.sources()] == [1]


async def test_an_answer_that_says_what_is_known_only_says_when_it_was_given(store: Database) -> None:
    catalog = a_catalog(store)
    answer = [an_entry("m5.large", 96_000, spot=40_000), an_entry("g4", 5, gpus="T4:1")]
    await catalog.refresh(StandIn(answer))
    book = await catalog.book()
    later = NOW + timedelta(hours=1)
    replaced = await catalog.refresh(StandIn([replace(entry, fetch_time=later) for entry in answer]))
    assert (replaced.entries, replaced.error) == (2, "")
    (source,) = await catalog.sources()
    assert (source.version, source.fetch_time) == (1, later)
    assert await catalog.book() is book
    page = await catalog.page(ANY, "", 1)
    assert page.offers[0].fetch_time == later


async def test_what_one_provider_changes_leaves_the_offers_of_others_in_memory(store: Database) -> None:
    catalog = a_catalog(store, "aws", "gcp")
    await catalog.plant()
    before = await catalog.book()
    theirs = {id(offer) for offer in before.offers if offer.place.provider == "gcp"}
    await catalog.refresh(StandIn([an_entry("m5.large", 96_000)]))
    again = {id(offer) for offer in (await catalog.book()).offers if offer.place.provider == "gcp"}
    assert again == theirs


async def test_a_small_answer_is_taken_when_it_is_meant(store: Database) -> None:
    catalog = a_catalog(store)
    await catalog.refresh(StandIn([an_entry(f"t{index}", index) for index in range(100)]))
    assert (await catalog.refresh(StandIn([an_entry("m5.large", 1)]), force=True)).error == ""
    assert await types(catalog) == ["m5.large in aws/us-east-1"]


async def test_what_a_provider_says_twice_counts_once(store: Database) -> None:
    catalog = a_catalog(store)
    assert (await catalog.refresh(StandIn([an_entry("m5.large", 1), an_entry("m5.large", 2)]))).entries == 1
    assert len(await catalog.book()) == 1


async def test_only_regions_that_are_configured_are_offered(store: Database) -> None:
    answer = [an_entry("m5.large", 1), an_entry("m5.large", 2, region="us-west-2")]
    await a_catalog(store).refresh(StandIn(answer))
    assert await types(a_catalog(store, regions=["us-west-2"])) == ["m5.large in aws/us-west-2"]
    assert await types(a_catalog(store, "gcp")) == []


async def test_many_entries_are_read_in_parts(store: Database) -> None:
    catalog = a_catalog(store)
    answer = [an_entry(f"t{index:05}", index, region=f"r{index % 7}", spot=index) for index in range(12_345)]
    await catalog.refresh(StandIn(answer))
    book = await catalog.book()
    assert len(book) == 24_690
    assert {offer.machine_type for offer in book.offers} == {entry.machine_type for entry in answer}


async def test_a_file_replaces_what_was_known(store: Database) -> None:
    catalog = a_catalog(store)
    await catalog.plant()
    file = f"{HEAD}\nm5.large,,,2.0,8.0,,0.096,0.04,us-east-1,use1-az1,x86_64\n,TPU,1,,,,1,1,us-east-1,use1-az1,\n"
    replaced = await catalog.import_csv("aws", file.encode())
    assert (replaced.entries, replaced.skipped) == (1, {"TPUs": 1})
    assert len(await types(catalog)) == 2
    (source,) = await catalog.sources()
    assert source.source == "import"
    assert datetime.now(UTC) - source.fetch_time < timedelta(minutes=5)


async def test_a_bad_file_changes_nothing(store: Database) -> None:
    catalog = a_catalog(store)
    await catalog.plant()
    with pytest.raises(InvalidRequest):
        await catalog.import_csv("aws", b"nothing,of,the,kind\n")
    assert [source.source for source in await catalog.sources()] == ["seed"]


async def test_a_repeated_request_replaces_nothing_and_another_one_with_its_id_is_refused(store: Database) -> None:
    catalog = a_catalog(store)
    mutation = Mutation(token_id=1, method="RefreshCatalog", request_id="r1", digest=b"a")
    await catalog.refresh(StandIn([an_entry("m5.large", 1)]), mutation)
    await catalog.refresh(StandIn([an_entry("m5.xlarge", 1)]), mutation)
    assert await types(catalog) == ["m5.large in aws/us-east-1"]
    with pytest.raises(Conflict):
        await catalog.refresh(StandIn([an_entry("m5.large", 1)]), replace(mutation, digest=b"b"))


async def test_pages_go_through_all_offers_once_in_the_order_of_price(store: Database) -> None:
    catalog = a_catalog(store, "aws", "gcp")
    await catalog.plant()
    book = await catalog.book()
    listed, after = [], ""
    while True:
        page = await catalog.page(ANY, after, 100)
        listed += [each.offer for each in page.offers]
        assert all(each.fetch_time == seed.as_of() for each in page.offers)
        after = page.after
        if not after:
            break
    assert tuple(listed) == book.offers


async def test_a_page_goes_on_where_it_was_when_prices_changed_meanwhile(store: Database) -> None:
    catalog = a_catalog(store)
    await catalog.refresh(StandIn([an_entry(name, price) for name, price in (("a", 1), ("b", 2), ("c", 3), ("d", 4))]))
    first = await catalog.page(ANY, "", 2)
    assert [each.offer.machine_type for each in first.offers] == ["a", "b"]
    await catalog.refresh(StandIn([an_entry(name, price) for name, price in (("a", 9), ("c", 3), ("e", 2))]))
    rest = await catalog.page(ANY, first.after, 9)
    assert [each.offer.machine_type for each in rest.offers] == ["e", "c", "a"]
    assert rest.after == ""


@pytest.mark.parametrize("after", ["x", "[]", "{}", json.dumps([1, 2, 3, 4, 5, 6, 7, 8]), json.dumps([1] * 5 + [[1]])])
async def test_a_place_in_no_list_is_refused(store: Database, after: str) -> None:
    catalog = a_catalog(store)
    await catalog.refresh(StandIn([an_entry("a", 1)]))
    with pytest.raises(InvalidRequest) as caught:
        await catalog.page(ANY, after, 1)
    assert caught.value.reason == "PAGE_TOKEN_INVALID"


async def test_lists_are_filtered_by_the_rules_of_renting(store: Database) -> None:
    catalog = a_catalog(store)
    answer = [an_entry("g4", 5, spot=2, gpus="T4:1"), an_entry("g4.x", 9, spot=4, gpus="T4:4"), an_entry("m5", 1)]
    await catalog.refresh(StandIn(answer))
    wanted = MachineNeeds(gpu_name="t4", gpu_count=1, spot=SpotUse.ONLY)
    page = await catalog.page(wanted, "", 10)
    assert [str(each.offer) for each in page.offers] == ["g4 spot in aws/us-east-1", "g4.x spot in aws/us-east-1"]


async def test_accelerators_are_listed_by_name_and_number_with_their_cheapest_offers(store: Database) -> None:
    catalog = a_catalog(store)
    answer = [
        an_entry("g4", 5, spot=2, gpus="T4:1"),
        an_entry("g4", 4, spot=3, gpus="T4:1", region="us-west-2"),
        an_entry("g4.x", 9, gpus="T4:4"),
        an_entry("p4", 30, spot=20, gpus="A100-80GB:8"),
        an_entry("m5", 1),
    ]
    await catalog.refresh(StandIn(answer))
    found = await catalog.gpus()
    assert [(gpu.name, gpu.count, gpu.offers) for gpu in found] == [("A100-80GB", 8, 2), ("T4", 1, 4), ("T4", 4, 1)]
    single = found[1]
    assert single.cheapest is not None
    assert single.cheapest_spot is not None
    assert (single.cheapest.offer.price_micros, single.cheapest_spot.offer.price_micros) == (4, 2)
    assert single.memory_bytes == 16 * GIB
    assert found[2].cheapest_spot is None
    assert [gpu.name for gpu in await catalog.gpus("a100")] == ["A100-80GB"]
