"""The prices in the package are whole, dated and marked."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import pytest

from styx_server.core.machines.book import OfferBook
from styx_server.core.machines.choose import nothing_blocked, rank
from styx_server.core.machines.infra import parse_infra
from styx_server.core.machines.needs import MachineNeeds
from styx_server.core.machines.offer import CatalogEntry, offers_of
from styx_server.providers import seed

ENTRIES = {provider: seed.entries(provider) for provider in seed.PROVIDERS}


@pytest.mark.parametrize("provider", seed.PROVIDERS)
def test_every_entry_is_an_estimate_with_a_date_a_price_and_a_size(provider: str) -> None:
    for entry in ENTRIES[provider]:
        assert entry.estimate
        assert entry.fetch_time == seed.as_of() <= datetime(2026, 1, 1, tzinfo=UTC)
        assert entry.price_micros is not None
        assert entry.spot_price_micros is not None
        assert 1_000 < entry.spot_price_micros < entry.price_micros < 150_000_000
        size = entry.size
        assert size.cpus_milli >= 1000
        assert 2**30 <= size.memory_bytes <= 2**42
        assert bool(size.gpu_name) == bool(size.gpu_count) == bool(size.gpu_memory_bytes)
        assert size.arch in {"x86_64", "arm64"}
        assert parse_infra(str(entry.place)) == entry.place


@pytest.mark.parametrize("provider", seed.PROVIDERS)
def test_nothing_is_there_twice(provider: str) -> None:
    keys = Counter(
        (entry.place, entry.machine_type, entry.size.gpu_name, entry.size.gpu_count) for entry in ENTRIES[provider]
    )
    assert [key for key, count in keys.items() if count > 1] == []


@pytest.mark.parametrize("provider", seed.PROVIDERS)
def test_a_larger_machine_of_one_kind_never_costs_less(provider: str) -> None:
    entries = sorted(ENTRIES[provider], key=lambda entry: entry.size.cpus_milli)
    last: dict[tuple[object, ...], CatalogEntry] = {}
    for entry in entries:
        family = entry.machine_type.partition(".")[0] if provider == "aws" else entry.machine_type.rpartition("-")[0]
        key = (entry.place, family, entry.size.gpu_name, entry.size.gpu_count)
        smaller = last.get(key)
        assert smaller is None or (smaller.price_micros or 0) < (entry.price_micros or 0), entry
        last[key] = entry


def test_aws_leaves_the_zone_to_ec2_and_google_names_it() -> None:
    assert {entry.place.zone for entry in ENTRIES["aws"]} == {""}
    assert all(entry.place.zone.startswith(f"{entry.place.region}-") for entry in ENTRIES["gcp"])
    ultra = {entry.place.zone for entry in ENTRIES["gcp"] if entry.machine_type == "a2-ultragpu-1g"}
    assert ultra == {"us-central1-a", "us-central1-c", "europe-west4-a"}


@pytest.mark.parametrize("gpu", ["T4", "L4", "V100", "A100", "A100-80GB", "H100", "H200"])
def test_each_usual_accelerator_is_to_be_had_at_both(gpu: str) -> None:
    for entries in ENTRIES.values():
        book = OfferBook(offers_of(entries))
        best = rank([MachineNeeds(gpu_name=gpu, gpu_count=1)], book, nothing_blocked, most=1).best
        assert best is not None, gpu


def test_other_providers_have_no_prices_here() -> None:
    with pytest.raises(ValueError, match="there are no prices of kubernetes here; there are those of aws, gcp"):
        seed.entries("kubernetes")
