"""What is special about Google Cloud: orders that fail later, names, boot, spot, prices, checks."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from styx_server.core.machines.instance import TAG_DEPLOYMENT, TAG_KEY, MachineState, RentOrder
from styx_server.core.machines.offer import CatalogEntry, MachineSize, Offer, Place
from styx_server.core.machines.refusal import RefusalKind
from styx_server.core.machines.user_data import boot_script, user_data
from styx_server.providers.gcp import GcpProvider, GcpSettings
from styx_server.providers.gcp.machine import instance_of, key_of_name, label_value, machine_name
from styx_server.providers.ports import ProviderError
from tests.providers.gce_rules import HttpError, check_order
from tests.providers.gcp_market import DEPLOYMENT, OFFER, PLACE, GcpMarket, order, settings_for

T4 = Offer(
    place=PLACE,
    machine_type="n1-standard-4",
    size=MachineSize(cpus_milli=4000, memory_bytes=15 << 30, gpu_name="T4", gpu_count=2, gpu_memory_bytes=16 << 30),
    spot=True,
    price_micros=400_000,
    gpus_attached=True,
)
SOMEWHERE = replace(OFFER, place=Place(provider="gcp", region="us-central1"))
ROOT = Path(__file__).parents[2]
STOCKOUT = ("ZONE_RESOURCE_POOL_EXHAUSTED", "The zone does not have enough resources available.")


class SteppingClock:
    """Time passes only where somebody sleeps."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        await asyncio.sleep(0)


def body_of(what: RentOrder, settings: GcpSettings | None = None) -> dict[str, Any]:
    """What is sent for an order, as JSON."""
    from google.cloud import compute_v1

    made = instance_of(what, "us-central1-a", settings or GcpSettings(project="p"))
    body: dict[str, Any] = json.loads(compute_v1.Instance.to_json(made, always_print_fields_with_no_presence=False))
    return body


def items_of(body: Mapping[str, Any]) -> dict[str, str]:
    return {item["key"]: item["value"] for item in body["metadata"]["items"]}


async def refused(gcp: GcpMarket, what: RentOrder) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await gcp.provider.rent(what)
    return caught.value


# Names and labels.


@pytest.mark.parametrize(
    "key",
    ["styx-a1", "styx-0f3c2a-17-1", "a", "9-begins-with-a-digit", "-dash", "x" * 64, "x" * 56, "x" * 57, "ends-"],
)
def test_every_key_makes_a_name_that_google_takes(key: str) -> None:
    name = machine_name(key, DEPLOYMENT)
    check_order("us-central1-a", body_of(order(key)), "p")
    assert name == machine_name(key, DEPLOYMENT)
    assert key_of_name(name, DEPLOYMENT) in {key, ""}
    assert key_of_name(name, "another") is None


def test_a_usual_key_can_be_read_back_from_the_name() -> None:
    assert key_of_name(machine_name("styx-0f3c2a-17-1", DEPLOYMENT), DEPLOYMENT) == "styx-0f3c2a-17-1"


async def test_tags_come_back_as_they_were_although_labels_hold_less(gcp: GcpMarket) -> None:
    what = order("k" * 64)
    what = replace(what, tags={**what.tags, TAG_KEY: what.key, "styx-pool": "Big.Pool", TAG_DEPLOYMENT: "AB/12"})
    machine = await gcp.provider.rent(what)
    [listed] = await gcp.provider.list("AB/12", "us-central1")
    assert dict(machine.tags) == dict(listed.tags) == dict(what.tags)
    assert listed.key == what.key
    labels = gcp.double.body(machine.cloud_id)["labels"]
    assert labels["styx-pool"] == label_value("Big.Pool") == "big-pool"


# The body.


def test_an_order_is_the_same_bytes_each_time() -> None:
    assert body_of(order("styx-a1")) == body_of(order("styx-a1"))


def test_a_machine_on_demand() -> None:
    body = body_of(order("styx-a1"))
    assert body["machineType"] == "zones/us-central1-a/machineTypes/e2-standard-4"
    assert body["scheduling"] == {"maxRunDuration": {"seconds": "86400"}, "instanceTerminationAction": "DELETE"}
    [disk] = body["disks"]
    assert disk["autoDelete"]
    assert disk["initializeParams"]["labels"] == body["labels"]
    assert body["labels"][TAG_DEPLOYMENT] == DEPLOYMENT
    assert body.get("serviceAccounts", []) == []
    assert body["shieldedInstanceConfig"] == {
        "enableVtpm": True,
        "enableIntegrityMonitoring": True,
        "enableSecureBoot": False,
    }
    assert items_of(body)["block-project-ssh-keys"] == "true"


def test_a_spot_machine_with_accelerators_that_are_added() -> None:
    body = body_of(order("styx-a1", offer=T4))
    scheduling = body["scheduling"]
    assert scheduling["provisioningModel"] == "SPOT"
    assert scheduling["instanceTerminationAction"] == "DELETE"
    assert scheduling["onHostMaintenance"] == "TERMINATE"
    assert scheduling["automaticRestart"] is False
    [added] = body["guestAccelerators"]
    assert added == {
        "acceleratorCount": 2,
        "acceleratorType": "zones/us-central1-a/acceleratorTypes/nvidia-tesla-t4",
    }


def test_accelerators_of_the_type_itself_are_not_asked_for_again() -> None:
    offer = replace(T4, machine_type="g2-standard-4", gpus_attached=False)
    assert body_of(order("styx-a1", offer=offer)).get("guestAccelerators", []) == []


@pytest.mark.parametrize(("asked", "sent"), [(5, "30"), (3600, "3600"), (10**9, str(120 * 86_400))])
def test_life_is_kept_within_what_google_allows(asked: int, sent: str) -> None:
    body = body_of(replace(order("styx-a1"), life_seconds=asked))
    assert body["scheduling"]["maxRunDuration"]["seconds"] == sent


def test_a_disk_is_as_large_as_was_asked_for_and_of_a_type_that_the_machine_takes() -> None:
    asked = replace(order("styx-a1"), disk_bytes=(50 << 30) + 1)
    assert body_of(asked)["disks"][0]["initializeParams"]["diskSizeGb"] == "51"
    kinds = {
        name: body_of(order("styx-a1", offer=replace(OFFER, machine_type=name)))["disks"][0]["initializeParams"][
            "diskType"
        ].rpartition("/")[2]
        for name in ("e2-standard-4", "n4-standard-4", "c3-standard-4", "a3-highgpu-8g", "a3-ultragpu-8g")
    }
    assert kinds == {
        "e2-standard-4": "pd-balanced",
        "n4-standard-4": "hyperdisk-balanced",
        "c3-standard-4": "pd-balanced",
        "a3-highgpu-8g": "pd-balanced",
        "a3-ultragpu-8g": "hyperdisk-balanced",
    }


def test_settings_reach_the_machine() -> None:
    settings = GcpSettings(
        project="p",
        network="net",
        subnet="sub",
        external_ip=False,
        network_tags=("styx",),
        service_account="a@p.iam",
        secure_boot=True,
    )
    body = body_of(order("styx-a1"), settings)
    [interface] = body["networkInterfaces"]
    assert interface == {"network": "global/networks/net", "subnetwork": "regions/us-central1/subnetworks/sub"}
    assert body["tags"] == {"items": ["styx"]}
    assert body["serviceAccounts"][0]["email"] == "a@p.iam"
    assert body["shieldedInstanceConfig"]["enableSecureBoot"]


@pytest.mark.parametrize(
    ("offer", "image", "expected"),
    [
        (OFFER, "", "ubuntu-2404-lts-amd64"),
        (replace(OFFER, size=replace(OFFER.size, arch="arm64")), "", "ubuntu-2404-lts-arm64"),
        (T4, "", "with-driver"),
        (T4, "projects/x/global/images/mine", "mine"),
    ],
)
def test_the_image_fits_the_machine(offer: Offer, image: str, expected: str) -> None:
    settings = GcpSettings(project="p", image_gpu="projects/x/global/images/family/with-driver")
    body = body_of(replace(order("styx-a1", offer=offer), image=image), settings)
    assert body["disks"][0]["initializeParams"]["sourceImage"].rpartition("/")[2] == expected


# Boot.


async def test_an_image_with_cloud_init_gets_user_data(gcp: GcpMarket) -> None:
    what = order("styx-a1")
    what = replace(what, user_data=user_data(what.boot, OFFER.size, life_seconds=what.life_seconds))
    machine = await gcp.provider.rent(what)
    assert gcp.double.user_data(machine.cloud_id) == what.user_data
    assert "runcmd" in yaml.safe_load(gcp.double.user_data(machine.cloud_id))
    assert gcp.double.startup_script(machine.cloud_id) == ""


async def test_an_image_without_cloud_init_gets_the_script(gcp: GcpMarket) -> None:
    what = order("styx-a1")
    what = replace(
        what,
        user_data=user_data(what.boot, OFFER.size, life_seconds=what.life_seconds),
        image="projects/debian-cloud/global/images/family/debian-12",
    )
    machine = await gcp.provider.rent(what)
    expected = boot_script(what.boot, OFFER.size, life_seconds=what.life_seconds)
    assert gcp.double.startup_script(machine.cloud_id) == expected
    assert gcp.double.user_data(machine.cloud_id) == ""


# Orders.


async def test_an_order_that_is_not_done_in_time_has_an_unknown_fate_and_is_found_again() -> None:
    market = GcpMarket()
    clock = SteppingClock()
    patient = GcpProvider(replace(settings_for(market.double), poll_seconds=10.0, rent_seconds=60.0), clock)
    try:
        market.double.hold_orders()
        with pytest.raises(ProviderError) as caught:
            await patient.rent(order("styx-a1"))
        assert (caught.value.kind, caught.value.fate_known) == (RefusalKind.TIMEOUT, False)
        assert clock.seconds > 60
        market.double.settle()
        again = await patient.rent(order("styx-a1"))
        assert [made["name"] for made in market.double.ledger] == [again.cloud_id]
    finally:
        await patient.close()
        await market.close()


async def test_an_order_that_cannot_be_looked_at_goes_on(gcp: GcpMarket) -> None:
    gcp.double.refuse_call(HttpError(503, "backendError", "x"), method="GET", path="/operations/", times=3)
    machine = await gcp.provider.rent(order("styx-a1"))
    assert machine.state is MachineState.STARTING


async def test_that_an_order_may_not_be_looked_at_does_not_say_that_there_is_no_machine(gcp: GcpMarket) -> None:
    gcp.double.refuse_call(HttpError(403, "forbidden", "x"), method="GET", path="/operations/")
    error = await refused(gcp, order("styx-a1"))
    assert not error.fate_known
    assert len(gcp.double.ledger) == 1


async def test_a_machine_that_cannot_be_looked_at_is_there_all_the_same(gcp: GcpMarket) -> None:
    gcp.double.refuse_call(HttpError(403, "forbidden", "x"), method="GET", path="/instances/")
    machine = await gcp.provider.rent(order("styx-a1"))
    assert machine.cloud_id == gcp.double.ledger[0]["name"]
    assert machine.key == "styx-a1"


async def test_a_failure_that_has_passed_is_not_told_for_ever(gcp: GcpMarket) -> None:
    gcp.double.refuse_order("RESOURCE_OPERATION_RATE_EXCEEDED", "Too fast", status=403, times=2)
    assert (await refused(gcp, order("styx-a1"))).kind is RefusalKind.THROTTLED
    assert (await refused(gcp, order("styx-a1"))).kind is RefusalKind.THROTTLED
    machine = await gcp.provider.rent(order("styx-a1"))
    assert (await gcp.provider.rent(order("styx-a1"))).cloud_id == machine.cloud_id
    assert len(gcp.double.ledger) == 1


async def test_a_stock_out_is_told_again_to_who_asks_again(gcp: GcpMarket) -> None:
    gcp.double.refuse_order(*STOCKOUT)
    assert (await refused(gcp, order("styx-a1"))).kind is RefusalKind.CAPACITY
    assert (await refused(gcp, order("styx-a1"))).kind is RefusalKind.CAPACITY
    assert gcp.double.ledger == []


async def test_the_name_finds_the_machine_when_google_has_forgotten_the_request(gcp: GcpMarket) -> None:
    machine = await gcp.provider.rent(order("styx-a1"))
    gcp.double.forget_requests()
    assert (await gcp.provider.rent(order("styx-a1"))).cloud_id == machine.cloud_id
    assert len(gcp.double.ledger) == 1


async def test_a_machine_of_the_same_name_that_is_not_ours_is_left_alone(gcp: GcpMarket) -> None:
    name = gcp.double.plant(machine_name("styx-a1", DEPLOYMENT))
    error = await refused(gcp, order("styx-a1"))
    assert error.kind is RefusalKind.BAD_REQUEST
    assert name in error.message
    assert len(gcp.double.ledger) == 1


async def test_an_order_whose_machine_is_gone_already_says_so(gcp: GcpMarket) -> None:
    machine = await gcp.provider.rent(order("styx-a1"))
    await gcp.provider.release(machine.place, machine.cloud_id)
    gcp.double.settle()
    again = await gcp.provider.rent(order("styx-a1"))
    assert (again.cloud_id, again.state) == (machine.cloud_id, MachineState.ENDED)
    assert len(gcp.double.ledger) == 1


async def test_the_request_id_is_that_of_the_key(gcp: GcpMarket) -> None:
    await gcp.provider.rent(order("styx-a1"))
    await gcp.provider.rent(order("styx-a1"))
    await gcp.provider.rent(order("styx-a2"))
    ids = [
        query["requestId"] for method, path, query in gcp.double.calls if (method, path[-9:]) == ("POST", "instances")
    ]
    assert ids[0] == ids[1] != ids[2]


# A region without a zone.


async def test_an_offer_of_a_region_goes_to_the_zone_that_has_it(gcp: GcpMarket) -> None:
    gcp.double.refuse_order(*STOCKOUT, zone="us-central1-a")
    machine = await gcp.provider.rent(order("styx-a1", offer=SOMEWHERE))
    assert machine.place.zone == "us-central1-b"
    assert (await gcp.provider.rent(order("styx-a1", offer=SOMEWHERE))).cloud_id == machine.cloud_id
    await gcp.provider.release(SOMEWHERE.place, machine.cloud_id)
    gcp.double.settle()
    assert ["_gone" in made for made in gcp.double.ledger] == [True]


async def test_a_region_that_has_it_in_no_zone_says_so(gcp: GcpMarket) -> None:
    gcp.double.refuse_order(*STOCKOUT, times=2)
    assert (await refused(gcp, order("styx-a1", offer=SOMEWHERE))).kind is RefusalKind.CAPACITY
    assert gcp.double.ledger == []


async def test_a_lost_answer_in_a_second_zone_makes_no_second_machine(gcp: GcpMarket) -> None:
    gcp.double.refuse_order(*STOCKOUT, zone="us-central1-a")
    what = order("styx-a1", offer=SOMEWHERE)
    gcp.double.lose_answers_in("us-central1-b")
    assert not (await refused(gcp, what)).fate_known
    machine = await gcp.provider.rent(what)
    assert [made["name"] for made in gcp.double.ledger] == [machine.cloud_id]
    assert machine.place.zone == "us-central1-b"


async def test_a_region_that_does_not_exist_is_said_so(gcp: GcpMarket) -> None:
    nowhere = replace(OFFER, place=Place(provider="gcp", region="us-moon1"))
    error = await refused(gcp, order("styx-a1", offer=nowhere))
    assert error.kind is RefusalKind.BAD_REQUEST
    assert "us-moon1" in error.message


# Machines that end.


async def test_a_spot_machine_that_was_taken_back_is_known_to_a_server_that_never_saw_it(gcp: GcpMarket) -> None:
    machine = await gcp.provider.rent(order("styx-a1", offer=replace(OFFER, spot=True)))
    gcp.double.preempt(machine.cloud_id)
    fresh = GcpProvider(settings_for(gcp.double))
    [listed] = await fresh.list(DEPLOYMENT, "us-central1")
    await fresh.close()
    assert (listed.key, listed.cloud_id, listed.reason) == ("styx-a1", machine.cloud_id, "preempted")
    assert (listed.state, listed.place) == (MachineState.ENDED, machine.place)


async def test_spot_machines_of_others_that_were_taken_back_are_not_listed(gcp: GcpMarket) -> None:
    gcp.double.preempt(gcp.double.plant("somebody-elses"))
    gcp.double.preempt(gcp.double.plant(machine_name("styx-a1", "another")))
    assert list(await gcp.provider.list(DEPLOYMENT, "us-central1")) == []


async def test_a_machine_that_was_taken_back_is_forgotten_after_a_day(gcp: GcpMarket) -> None:
    clock = SteppingClock()
    later = GcpProvider(settings_for(gcp.double), clock)
    machine = await gcp.provider.rent(order("styx-a1", offer=replace(OFFER, spot=True)))
    gcp.double.preempt(machine.cloud_id)
    assert len(await later.list(DEPLOYMENT, "us-central1")) == 1
    clock.seconds = 25 * 3600
    assert list(await later.list(DEPLOYMENT, "us-central1")) == []
    await later.close()


async def test_a_machine_that_powered_itself_off_has_ended_and_is_deleted_with_its_disk(gcp: GcpMarket) -> None:
    machine = await gcp.provider.rent(order("styx-a1"))
    gcp.double.settle()
    gcp.double.stop(machine.cloud_id)
    [listed] = await gcp.provider.list(DEPLOYMENT, "us-central1")
    assert (listed.state, listed.reason) == (MachineState.ENDED, "stopped")
    gcp.double.settle()
    assert list(await gcp.provider.list(DEPLOYMENT, "us-central1")) == []
    assert ["_gone" in made for made in gcp.double.ledger] == [True]


async def test_a_list_with_a_zone_that_cannot_be_asked_is_an_error(gcp: GcpMarket) -> None:
    await gcp.provider.rent(order("styx-a1"))
    gcp.double.unreachable.add("europe-west4-a")
    with pytest.raises(ProviderError) as caught:
        await gcp.provider.list(DEPLOYMENT, "us-central1")
    assert caught.value.kind is RefusalKind.UNAVAILABLE
    assert "europe-west4-a" in caught.value.message


async def test_a_page_that_cannot_be_read_is_an_error(gcp: GcpMarket) -> None:
    for number in range(3):
        await gcp.provider.rent(order(f"styx-a{number}"))
    gcp.double.refuse_call(HttpError(503, "backendError", "x"), method="GET", path="/aggregated/instances", after=1)
    with pytest.raises(ProviderError):
        await gcp.provider.list(DEPLOYMENT, "us-central1")


async def test_a_region_has_only_its_own_machines(gcp: GcpMarket) -> None:
    there = Place(provider="gcp", region="europe-west4", zone="europe-west4-a")
    await gcp.provider.rent(order("styx-a1"))
    await gcp.provider.rent(order("styx-a2", offer=replace(OFFER, place=there)))
    assert [each.key for each in await gcp.provider.list(DEPLOYMENT, "europe-west4")] == ["styx-a2"]


# What there is.


async def entries(gcp: GcpMarket) -> dict[tuple[str, str, str, int], CatalogEntry]:
    found = await gcp.provider.offers()
    return {(each.place.zone, each.machine_type, each.size.gpu_name, each.size.gpu_count): each for each in found}


async def test_prices_are_the_sum_of_the_parts(gcp: GcpMarket) -> None:
    found = await entries(gcp)
    plain = found["us-central1-a", "e2-standard-4", "", 0]
    assert (plain.price_micros, plain.spot_price_micros) == (4 * 20_000 + 16 * 3_000, 4 * 5_000 + 16 * 750)
    assert not plain.estimate
    with_gpu = found["us-central1-a", "a2-highgpu-1g", "A100", 1]
    assert with_gpu.price_micros == 12 * 31_000 + 85 * 4_200 + 2_900_000
    assert with_gpu.size.gpu_memory_bytes == 40 << 30
    assert not with_gpu.gpus_attached
    added = found["us-central1-a", "n1-standard-4", "T4", 2]
    assert added.price_micros == 4 * 30_000 + 15 * 4_000 + 2 * 350_000
    assert added.spot_price_micros == 4 * 7_500 + 15 * 1_000 + 2 * 87_500
    assert added.gpus_attached


async def test_a_shared_core_costs_what_it_is_charged_for(gcp: GcpMarket) -> None:
    assert (await entries(gcp))["us-central1-a", "e2-small", "", 0].price_micros == 10_000 + 2 * 3_000


async def test_local_disks_of_a_type_are_in_its_price(gcp: GcpMarket) -> None:
    found = (await entries(gcp))["us-central1-a", "a2-ultragpu-1g", "A100-80GB", 1]
    assert found.price_micros == 12 * 31_000 + 170 * 4_200 + 3_900_000 + 375 * 100
    assert found.spot_price_micros == 12 * 7_750 + 170 * 1_050 + 975_000 + 375 * 40


async def test_what_has_no_price_or_an_unknown_disk_or_is_old_is_not_offered(gcp: GcpMarket) -> None:
    types = {machine_type for _, machine_type, _, _ in await entries(gcp)}
    assert types & {"z9-standard-4", "c3-standard-4-lssd", "n2-standard-2"} == set()
    assert {"n4-standard-4", "t2a-standard-4", "g2-standard-4"} <= types


async def test_accelerators_are_added_only_where_there_are_some_and_not_to_too_many_cores(gcp: GcpMarket) -> None:
    found = await entries(gcp)
    assert [
        count for zone, name, gpu, count in found if (zone, name, gpu) == ("us-central1-a", "n1-standard-4", "T4")
    ] == [
        1,
        2,
        4,
    ]
    assert [count for _, name, gpu, count in found if (name, gpu) == ("n1-standard-96", "T4")] == [4]
    assert not [zone for zone, _, gpu, _ in found if (zone, gpu) == ("us-central1-b", "T4")]


async def test_only_the_regions_that_were_set_are_offered(gcp: GcpMarket) -> None:
    assert {each.place.region for each in await gcp.provider.offers()} == {"us-central1"}


async def test_arm_types_say_so(gcp: GcpMarket) -> None:
    assert (await entries(gcp))["us-central1-b", "t2a-standard-4", "", 0].size.arch == "arm64"


async def test_offers_without_the_price_list_are_an_error_with_a_remedy(gcp: GcpMarket) -> None:
    gcp.double.services_off.add("cloudbilling")
    with pytest.raises(ProviderError) as caught:
        await gcp.provider.offers()
    assert caught.value.kind is RefusalKind.PERMISSION
    assert "gcloud services enable cloudbilling.googleapis.com --project test-project" in caught.value.message


@pytest.mark.parametrize(
    "name", ["n1-standard-4", "g2-standard-4", "a2-ultragpu-1g", "n4-standard-4", "t2a-standard-4"]
)
async def test_what_is_offered_is_what_google_takes(gcp: GcpMarket, name: str) -> None:
    offered = [each for each in await gcp.provider.offers() if each.machine_type == name]
    for number, each in enumerate(each for each in offered if each.place.zone == "us-central1-a"):
        offer = Offer(
            place=each.place,
            machine_type=each.machine_type,
            size=each.size,
            spot=True,
            price_micros=each.spot_price_micros or 0,
            gpus_attached=each.gpus_attached,
        )
        machine = await gcp.provider.rent(order(f"styx-{number}", offer=offer))
        assert machine.spot


# Checks.


async def test_a_project_without_the_api_is_told_how_to_switch_it_on(gcp: GcpMarket) -> None:
    gcp.double.services_off.add("compute")
    report = await gcp.provider.check()
    assert not report.usable
    [wrong] = [finding for finding in report.findings if not finding.good]
    assert "gcloud services enable compute.googleapis.com --project test-project" in wrong.remedy


async def test_missing_permissions_are_named_with_the_role_that_has_them(gcp: GcpMarket) -> None:
    gcp.double.permissions_missing = {"compute.instances.create", "compute.subnetworks.use"}
    report = await gcp.provider.check()
    [wrong] = [finding for finding in report.findings if not finding.good]
    assert wrong.what == "missing permissions: compute.instances.create, compute.subnetworks.use"
    assert "gcloud projects add-iam-policy-binding test-project" in wrong.remedy


async def test_neighbours_that_are_switched_off_do_not_make_it_unusable(gcp: GcpMarket) -> None:
    gcp.double.services_off |= {"cloudresourcemanager", "cloudbilling"}
    report = await gcp.provider.check()
    assert report.usable
    assert len([finding for finding in report.findings if "gcloud services enable" in finding.what]) == 2


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"image": "projects/ubuntu-os-cloud/global/images/family/gone"}, "image"),
        ({"network": "gone"}, "network"),
        ({"subnet": "gone"}, "subnet"),
        ({"regions": ("us-moon1",)}, "us-moon1"),
        ({"project": "gone"}, "project"),
    ],
)
async def test_a_setting_that_points_at_nothing_is_found(gcp: GcpMarket, change: dict[str, Any], word: str) -> None:
    provider = GcpProvider(replace(settings_for(gcp.double), **change))
    report = await provider.check()
    await provider.close()
    wrong = [finding for finding in report.findings if not finding.good]
    assert wrong
    assert all(word in finding.what and "gcloud" in finding.remedy for finding in wrong)


def test_a_machine_without_credentials_is_told_how_to_get_some(tmp_path: Path) -> None:
    program = (
        "import asyncio\n"
        "from styx_server.providers.gcp import GcpProvider, GcpSettings\n"
        "report = asyncio.run(GcpProvider(GcpSettings(project='p')).check())\n"
        "print(report.usable, repr(report.identity), *(finding.remedy for finding in report.findings))\n"
    )
    key = tmp_path / "key.json"
    key.write_text("{}")
    environment = {**os.environ, "GOOGLE_APPLICATION_CREDENTIALS": str(key)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.startswith("False '' ")
    assert "gcloud auth application-default login" in done.stdout
