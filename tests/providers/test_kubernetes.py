"""Machines as pods: what is asked of a cluster, what its words mean, and what its nodes have to offer."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import AsyncIterator
from dataclasses import fields, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from styx_server.core.machines.instance import CloudMachine, MachineState, RentOrder
from styx_server.core.machines.offer import CatalogEntry, MachineSize, Place
from styx_server.core.machines.refusal import RefusalKind, Scope
from styx_server.providers.kubernetes import KubernetesProvider, KubernetesSettings
from styx_server.providers.kubernetes.check import NEEDED
from styx_server.providers.kubernetes.machine_type import MachineType, gpu_name, read_type
from styx_server.providers.kubernetes.manifest import label_value, owned_by, pod_of, secret_name, secret_of
from styx_server.providers.kubernetes.nodes import NODE_PRICE, quantity
from styx_server.providers.kubernetes.pods import machine_of
from styx_server.providers.kubernetes.settings import Toleration
from styx_server.providers.ports import ProviderError
from tests.providers.conftest import MARKETS
from tests.providers.kube_double import Doc, KubeDouble, amount_of, serve, unknown_fields
from tests.providers.kubernetes_market import (
    DEPLOYMENT,
    NAMESPACE,
    REGION,
    SPOT_NODE_LABELS,
    KubernetesMarket,
    open_market,
    order,
)
from tests.providers.real_kubernetes import market_at
from tools.gen_protos import ROOT

GIB = 2**30
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
SETTINGS = KubernetesSettings()


@pytest.fixture
async def market(tmp_path: Path) -> AsyncIterator[KubernetesMarket]:
    async with open_market(tmp_path) as opened:
        yield opened


def gpu_order(key: str, product: str, *, spot: bool = False) -> RentOrder:
    made = order(key, spot=spot, machine_type=f"8x32-{product}x2")
    size = MachineSize(cpus_milli=8000, memory_bytes=32 * GIB, gpu_name=gpu_name(product), gpu_count=2)
    return replace(made, offer=replace(made.offer, size=size))


def container(pod: Doc) -> Doc:
    [only] = pod["spec"]["containers"]
    found: Doc = only
    return found


def script_of(market: KubernetesMarket, key: str) -> str:
    return base64.b64decode(market.double.secrets[NAMESPACE, secret_name(key)]["data"]["boot.sh"]).decode()


async def only_machine(market: KubernetesMarket) -> CloudMachine:
    [machine] = await market.provider.list(DEPLOYMENT, REGION)
    return machine


# What is asked of a cluster.


def test_a_pod_asks_for_what_it_may_use_and_for_room_for_the_agent() -> None:
    pod = pod_of(replace(order("styx-a1"), disk_bytes=20 * GIB), SETTINGS)
    resources = container(pod)["resources"]
    assert resources["requests"] == resources["limits"]
    assert resources["limits"]["cpu"] == "1000m"
    assert int(resources["limits"]["memory"]) == 2 * GIB + SETTINGS.agent_memory_bytes
    assert int(resources["limits"]["ephemeral-storage"]) == 20 * GIB
    script = secret_of(order("styx-a1"))["stringData"]["boot.sh"]
    assert f"--cpus=1.0 --memory={2 * GIB};" in script


def test_a_pod_ends_by_itself_and_is_not_started_again() -> None:
    spec = pod_of(order("styx-a1"), SETTINGS)["spec"]
    assert spec["restartPolicy"] == "Never"
    assert spec["activeDeadlineSeconds"] == 604_800
    assert spec["terminationGracePeriodSeconds"] == SETTINGS.grace_seconds
    notice = {"name": "STYX_AGENT_PREEMPTION_NOTICE", "value": f"term:{SETTINGS.grace_seconds}"}
    assert notice in spec["containers"][0]["env"]


def test_what_runs_in_a_pod_has_no_account_in_the_cluster_and_no_power_over_the_node() -> None:
    spec = pod_of(order("styx-a1"), SETTINGS)["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    [only] = spec["containers"]
    assert only["securityContext"] == {
        "privileged": False,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }


def test_a_pod_may_be_told_to_run_as_root() -> None:
    spec = pod_of(order("styx-a1"), replace(SETTINGS, run_as_user=0))["spec"]
    assert spec["securityContext"] == {"runAsUser": 0, "seccompProfile": {"type": "RuntimeDefault"}}


def test_the_join_token_is_in_the_secret_and_nowhere_in_the_pod() -> None:
    asked = order("styx-a1")
    assert asked.boot.join_token not in json.dumps(pod_of(asked, SETTINGS))
    assert asked.boot.join_token in secret_of(asked)["stringData"]["boot.sh"]


async def test_an_order_that_cannot_be_booted_makes_nothing(market: KubernetesMarket) -> None:
    asked = order("styx-a1")
    with pytest.raises(ProviderError, match="join_token") as caught:
        await market.provider.rent(replace(asked, boot=replace(asked.boot, join_token="two\nlines")))
    assert caught.value.kind is RefusalKind.BAD_REQUEST
    assert market.double.ever == {}


@pytest.mark.parametrize("asked", [order("styx-a1"), gpu_order("styx-a2", "NVIDIA-L4", spot=True)])
def test_every_field_is_one_that_the_api_has(asked: RentOrder) -> None:
    settings = replace(SETTINGS, tolerations=("a=b:NoSchedule", "c"))
    settings = replace(settings, image_pull_secret="registry", node_selector={"pool": "styx"})
    assert list(unknown_fields(pod_of(asked, settings), "V1Pod")) == []
    assert list(unknown_fields(secret_of(asked), "V1Secret")) == []
    assert list(unknown_fields({"spec": {"contaners": []}}, "V1Pod")) == ["spec.contaners"]


def test_an_order_names_its_own_image() -> None:
    settings = replace(SETTINGS, image="agent:1")
    assert container(pod_of(order("styx-a1"), settings))["image"] == "agent:1"
    assert container(pod_of(replace(order("styx-a1"), image="torch:2"), settings))["image"] == "torch:2"


def test_an_order_for_a_zone_asks_for_its_nodes() -> None:
    asked = order("styx-a1")
    asked = replace(asked, offer=replace(asked.offer, place=Place(provider="kubernetes", region=REGION, zone="z-a")))
    pod = pod_of(asked, SETTINGS)
    assert pod["spec"]["nodeSelector"]["topology.kubernetes.io/zone"] == "z-a"
    assert machine_of(pod, REGION, NOW, 60).place.zone == "z-a"


@pytest.mark.parametrize(
    "tag",
    ["simple", "", "2026-01-08T00:00:00Z", "a" * 64, "/../", "größe", "-leads", "trails-", "a b", "." * 70],
)
def test_any_tag_fits_a_label_and_is_read_back_as_it_was(tag: str) -> None:
    label = label_value(tag)
    assert label_value(label) == label
    assert len(label) <= 63
    assert label == "" or (label[0].isalnum() and label[-1].isalnum() and label.isascii())
    asked = replace(order("styx-a1"), tags={"styx-deployment": DEPLOYMENT, "styx-pool": tag})
    assert machine_of(pod_of(asked, SETTINGS), REGION, NOW, 60).tags == asked.tags


def test_different_tags_have_different_labels() -> None:
    assert label_value("a" * 63 + "b") != label_value("a" * 63 + "c")
    assert label_value("a/b") != label_value("a:b")


async def test_the_secret_belongs_to_its_pod_and_goes_with_it(market: KubernetesMarket) -> None:
    await market.provider.rent(order("styx-a1"))
    pod = market.double.pods[NAMESPACE, "styx-a1"]
    [secret] = market.double.secrets.values()
    assert secret["metadata"]["ownerReferences"] == owned_by(pod)["metadata"]["ownerReferences"]
    assert list(unknown_fields(owned_by(pod), "V1Secret")) == []
    # Not Styx, but the cluster takes the pod away.
    del market.double.pods[NAMESPACE, "styx-a1"]
    market.double.settle()
    assert market.double.secrets == {}


async def test_a_pod_whose_maker_died_at_once_starts_all_the_same(market: KubernetesMarket) -> None:
    await market.lose_answer()
    with pytest.raises(ProviderError):
        await market.provider.rent(order("styx-a1"))
    market.double.settle()
    machine = await only_machine(market)
    assert machine.state is MachineState.RUNNING
    await market.provider.release(machine.place, machine.cloud_id)
    assert market.double.secrets == {}


async def test_a_secret_without_a_pod_goes_when_the_machine_is_released(market: KubernetesMarket) -> None:
    await market.refuse(RefusalKind.UNAVAILABLE)
    with pytest.raises(ProviderError):
        await market.provider.rent(order("styx-a1"))
    assert len(market.double.secrets) == 1
    await market.provider.release(Place(provider="kubernetes", region=REGION), "styx-a1")
    assert market.double.secrets == {}


# Whose pod it is.


@pytest.mark.parametrize(
    "labels",
    [
        {"app": "postgres"},
        {"app.kubernetes.io/managed-by": "styx", "styx-key": "styx-a1", "styx-deployment": "another"},
    ],
)
async def test_a_pod_of_somebody_else_is_not_taken_for_ours(market: KubernetesMarket, labels: dict[str, str]) -> None:
    market.double.add_pod(NAMESPACE, "styx-a1", labels=labels)
    with pytest.raises(ProviderError, match="namespace of its own") as caught:
        await market.provider.rent(order("styx-a1"))
    assert caught.value.code == "Foreign"
    assert market.double.secrets == {}
    assert (NAMESPACE, "styx-a1") in market.double.pods


async def test_a_pod_of_somebody_else_is_not_released(market: KubernetesMarket) -> None:
    market.double.add_pod(NAMESPACE, "postgres-0", labels={"app": "postgres"})
    with pytest.raises(ProviderError, match="left alone"):
        await market.provider.release(Place(provider="kubernetes", region=REGION), "postgres-0")
    assert (NAMESPACE, "postgres-0") in market.double.pods


async def test_a_copy_of_a_pod_under_another_name_is_not_listed(market: KubernetesMarket) -> None:
    await market.provider.rent(order("styx-a1"))
    labels = market.double.pods[NAMESPACE, "styx-a1"]["metadata"]["labels"]
    market.double.add_pod(NAMESPACE, "debug-copy", labels=labels)
    assert (await only_machine(market)).cloud_id == "styx-a1"


async def test_a_pod_that_is_being_deleted_says_so_when_it_is_asked_for_again(market: KubernetesMarket) -> None:
    machine = await market.provider.rent(order("styx-a1"))
    market.double.settle()
    await market.provider.release(machine.place, machine.cloud_id)
    assert (await market.provider.rent(order("styx-a1"))).state is MachineState.ENDING


# What becomes of a pod.


async def test_no_room_is_a_refusal_after_a_while(market: KubernetesMarket) -> None:
    asked = gpu_order("styx-a1", "NVIDIA-L4")
    assert (await market.provider.rent(asked)).state is MachineState.STARTING
    market.double.settle()
    machine = await only_machine(market)
    assert (machine.state, machine.reason, machine.refusal) == (MachineState.STARTING, "unschedulable", None)
    market.double.advance(60)
    machine = await only_machine(market)
    assert machine.refusal is RefusalKind.CAPACITY
    assert "0/3 nodes are available" in machine.message


async def test_room_that_comes_in_time_is_used(market: KubernetesMarket) -> None:
    await market.provider.rent(gpu_order("styx-a1", "NVIDIA-L4"))
    market.double.settle()
    market.double.add_node("gpu", labels={"nvidia.com/gpu.product": "NVIDIA-L4"}, cpu="16", memory="64Gi", gpu="2")
    market.double.advance(30)
    market.double.settle()
    machine = await only_machine(market)
    assert (machine.state, machine.refusal) == (MachineState.RUNNING, None)


async def test_an_image_that_cannot_be_had_is_a_refusal(market: KubernetesMarket) -> None:
    market.double.broken_images["nowhere/agent:9"] = "ErrImagePull"
    await market.provider.rent(replace(order("styx-a1"), image="nowhere/agent:9"))
    market.double.settle()
    assert (await only_machine(market)).refusal is None
    market.double.broken_images["nowhere/agent:9"] = "ImagePullBackOff"
    market.double.settle()
    machine = await only_machine(market)
    assert (machine.state, machine.reason, machine.refusal) == (
        MachineState.STARTING,
        "image_pull",
        RefusalKind.BAD_IMAGE,
    )
    assert "nowhere/agent:9" in machine.message


def ended_pod(reason: str = "", message: str = "", **status: Any) -> Doc:
    pod = pod_of(order("styx-a1"), SETTINGS)
    pod["status"] = {"phase": "Failed", "reason": reason, "message": message, **status}
    return pod


def terminated(reason: str, message: str = "") -> list[Doc]:
    return [{"name": "agent", "state": {"terminated": {"exitCode": 1, "reason": reason, "message": message}}}]


DISRUPTED = [{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}]


@pytest.mark.parametrize(
    ("pod", "reason", "refusal"),
    [
        (ended_pod("Evicted", "The node was low on resource: memory."), "preempted", None),
        (ended_pod("Terminated", "Pod was terminated in response to imminent node shutdown."), "preempted", None),
        (ended_pod("NodeLost"), "preempted", None),
        (ended_pod(conditions=DISRUPTED, containerStatuses=terminated("Error")), "preempted", None),
        (ended_pod("Evicted", "Pod ephemeral local storage usage exceeds the total limit of 1Gi."), "disk_full", None),
        (ended_pod("DeadlineExceeded"), "expired", None),
        (ended_pod("OutOfnvidia.com/gpu", "Node didn't have enough resource"), "not_admitted", RefusalKind.CAPACITY),
        (ended_pod("UnexpectedAdmissionError"), "not_admitted", RefusalKind.CAPACITY),
        (ended_pod(containerStatuses=terminated("OOMKilled")), "out_of_memory", None),
        (ended_pod(containerStatuses=terminated("StartError", "no styx-agent")), "start_failed", RefusalKind.BAD_IMAGE),
        (ended_pod(containerStatuses=terminated("Error", "refused the token")), "agent_exited", None),
        (ended_pod(phase="Succeeded"), "agent_exited", None),
    ],
)
def test_why_a_pod_ended(pod: Doc, reason: str, refusal: RefusalKind | None) -> None:
    machine = machine_of(pod, REGION, NOW, 60)
    assert (machine.state, machine.reason, machine.refusal) == (MachineState.ENDED, reason, refusal)


def test_a_pod_that_is_preempted_says_so_before_it_is_gone() -> None:
    pod = ended_pod(phase="Running", conditions=DISRUPTED)
    pod["metadata"]["deletionTimestamp"] = "2026-01-01T12:00:30Z"
    machine = machine_of(pod, REGION, NOW, 60)
    assert (machine.state, machine.reason) == (MachineState.ENDING, "preempted")


async def test_pods_that_ended_long_ago_are_deleted(market: KubernetesMarket) -> None:
    await market.provider.rent(order("styx-a1"))
    await market.provider.rent(order("styx-a2", number=2))
    market.double.settle()
    market.double.fail(market.double.pods[NAMESPACE, "styx-a1"], "DeadlineExceeded", "")
    machines = await market.provider.list(DEPLOYMENT, REGION)
    assert [machine.state for machine in machines] == [MachineState.ENDED, MachineState.RUNNING]
    market.double.advance(SETTINGS.keep_ended_seconds + 1)
    await market.provider.list(DEPLOYMENT, REGION)
    assert [name for _, name in market.double.pods] == ["styx-a2"]


async def test_a_list_that_expires_between_pages_is_read_again(market: KubernetesMarket) -> None:
    for number in range(5):
        await market.provider.rent(order(f"styx-a{number}", number=number))
    market.double.expiring = 2
    assert len(await market.provider.list(DEPLOYMENT, REGION)) == 5


async def test_a_list_that_expires_for_ever_is_an_error_and_not_half_a_list(market: KubernetesMarket) -> None:
    for number in range(5):
        await market.provider.rent(order(f"styx-a{number}", number=number))
    market.double.expiring = 100
    with pytest.raises(ProviderError) as caught:
        await market.provider.list(DEPLOYMENT, REGION)
    assert caught.value.kind is RefusalKind.UNAVAILABLE


# What nodes have to offer.


async def offers(market: KubernetesMarket) -> dict[str, CatalogEntry]:
    return {entry.machine_type: entry for entry in await market.provider.offers()}


async def test_sizes_are_carved_from_what_is_free(market: KubernetesMarket) -> None:
    found = await offers(market)
    assert set(found) == {
        *("1x2", "1x4", "1x8", "2x4", "2x8", "2x16", "4x8", "4x16"),
        *("8x16", "8x31"),
    }
    assert found["4x16"].size == MachineSize(cpus_milli=4000, memory_bytes=16 * GIB)
    assert all(entry.place == Place(provider="kubernetes", region=REGION) for entry in found.values())


async def test_what_others_use_is_not_offered_and_what_styx_uses_is(market: KubernetesMarket) -> None:
    for name in ("n1", "n2", "n3"):
        requests = {"cpu": "4500m", "memory": "8Gi"}
        market.double.add_pod(
            "others", f"web-{name}", nodeName=name, containers=[{"name": "c", "resources": {"requests": requests}}]
        )
    await market.provider.rent(order("styx-a1"))
    market.double.settle()
    found = await offers(market)
    assert max(entry.size.cpus_milli for entry in found.values()) == 3000
    assert "3x23" in found


async def test_init_containers_and_overhead_count_as_the_scheduler_counts_them(market: KubernetesMarket) -> None:
    for name in ("n1", "n2", "n3"):
        market.double.add_pod(
            "others",
            f"web-{name}",
            nodeName=name,
            containers=[{"name": "c", "resources": {"requests": {"cpu": "1"}}}],
            initContainers=[
                {"name": "i", "resources": {"requests": {"cpu": "3"}}},
                {"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}},
            ],
            overhead={"cpu": "500m"},
        )
    found = await offers(market)
    assert max(entry.size.cpus_milli for entry in found.values()) == 4000


async def test_spot_nodes_are_offered_as_spot(market: KubernetesMarket) -> None:
    del market.double.nodes["n1"], market.double.nodes["n2"]
    found = await offers(market)
    assert {(entry.price_micros, entry.spot_price_micros) for entry in found.values()} == {(None, 0)}


async def test_nodes_that_are_not_to_be_used_offer_nothing(market: KubernetesMarket) -> None:
    nodes = market.double.nodes
    nodes["n1"]["spec"]["unschedulable"] = True
    nodes["n2"]["status"]["conditions"] = [{"type": "Ready", "status": "Unknown"}]
    nodes["n3"]["metadata"]["labels"]["kubernetes.io/os"] = "windows"
    market.double.add_node("n4")["spec"]["taints"] = [{"key": "team", "value": "web", "effect": "NoSchedule"}]
    market.double.add_node("n5", labels={"kubernetes.io/arch": "s390x"})
    assert await offers(market) == {}


async def test_taints_that_are_tolerated_and_selected_nodes(tmp_path: Path) -> None:
    settings = {"tolerations": ("team=ml",), "node_selector": {"pool": "styx"}}
    async with open_market(tmp_path, **settings) as market:
        market.double.add_node("n4", labels={"pool": "styx"}, cpu="2", memory="5Gi")
        market.double.nodes["n4"]["spec"]["taints"] = [{"key": "team", "value": "ml", "effect": "NoExecute"}]
        assert set(await offers(market)) == {"1x2", "1x4", "2x4"}
        await market.provider.rent(order("styx-a1"))
        market.double.settle()
        assert market.double.pods[NAMESPACE, "styx-a1"]["spec"]["nodeName"] == "n4"


async def test_nodes_with_gpus_are_offered_by_the_gpu_and_never_without(market: KubernetesMarket) -> None:
    market.double.nodes.clear()
    labels = {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB", "nvidia.com/gpu.memory": "81920"}
    market.double.add_node("gpu", labels=labels, cpu="96", memory="1100Gi", gpu="8")
    found = await offers(market)
    assert [(entry.size.gpu_name, entry.size.gpu_count) for entry in found.values()] == [
        ("A100-80GB", 1),
        ("A100-80GB", 2),
        ("A100-80GB", 4),
        ("A100-80GB", 8),
    ]
    whole = found["96x1099-NVIDIA-A100-SXM4-80GBx8"]
    assert whole.size.gpu_memory_bytes == 80 * GIB


@pytest.mark.parametrize("count", [1, 2])
async def test_gpus_that_are_offered_fit_beside_each_other(market: KubernetesMarket, count: int) -> None:
    market.double.nodes.clear()
    market.double.add_node("gpu", labels={"cloud.google.com/gke-accelerator": "nvidia-l4"}, cpu="15", gpu="2")
    market.double.nodes["gpu"]["spec"]["taints"] = [
        {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
    ]
    [entry] = [entry for entry in (await offers(market)).values() if entry.size.gpu_count == count]
    for number in range(2 // count):
        asked = order(f"styx-a{number}", number=number, machine_type=entry.machine_type)
        await market.provider.rent(replace(asked, offer=replace(asked.offer, size=entry.size)))
    market.double.settle()
    machines = await market.provider.list(DEPLOYMENT, REGION)
    assert {machine.state for machine in machines} == {MachineState.RUNNING}
    assert f"--gpus=L4:{count};" in script_of(market, "styx-a0")


@pytest.mark.parametrize("spot", [True, False])
async def test_an_order_lands_on_nodes_of_its_kind(market: KubernetesMarket, spot: bool) -> None:
    market.double.add_node("l4", labels={"nvidia.com/gpu.product": "NVIDIA-L4"}, memory="64Gi", cpu="16", gpu="4")
    market.double.add_node(
        "l4-spot",
        labels={"nvidia.com/gpu.product": "NVIDIA-L4", **SPOT_NODE_LABELS},
        memory="64Gi",
        cpu="16",
        gpu="4",
    )
    market.double.add_node("t4", labels={"nvidia.com/gpu.product": "Tesla-T4"}, memory="64Gi", cpu="16", gpu="4")
    await market.provider.rent(gpu_order("styx-a1", "NVIDIA-L4", spot=spot))
    market.double.settle()
    landed = market.double.pods[NAMESPACE, "styx-a1"]["spec"]["nodeName"]
    assert landed == ("l4-spot" if spot else "l4")


async def test_prices_are_the_nodes_or_what_the_operator_says(tmp_path: Path) -> None:
    rates = {"cpu_price_micros": 30_000, "gib_price_micros": 4_000}
    async with open_market(tmp_path, **rates) as market:
        assert (await offers(market))["2x8"].price_micros == 2 * 30_000 + 8 * 4_000
        market.double.nodes["n1"]["metadata"]["annotations"] = {NODE_PRICE: "0.08"}
        found = await offers(market)
        # A quarter of the node's cores and of its memory; a size of much memory pays for that.
        assert found["2x8"].price_micros == 20_000
        assert found["1x8"].price_micros == 20_000
        assert all(entry.estimate for entry in found.values())


async def test_a_cluster_that_is_away_does_not_hide_the_others(market: KubernetesMarket, tmp_path: Path) -> None:
    settings = KubernetesSettings(kubeconfig=str(tmp_path / "kubeconfig"), contexts={REGION: "test", "lost": "typo"})
    provider = KubernetesProvider(settings)
    assert {entry.place.region for entry in await provider.offers()} == {REGION}
    await provider.close()


@pytest.mark.parametrize(
    ("written", "number"),
    [("2", 2), ("500m", "0.5"), ("1Ki", 1024), ("32Gi", 32 * GIB), ("1.5G", 1_500_000_000), ("1e3", 1000), ("0", 0)],
)
def test_a_quantity_is(written: str, number: Any) -> None:
    assert quantity(written) == Decimal(number)
    assert written == "1e3" or float(quantity(written)) == amount_of(written)


@pytest.mark.parametrize("written", ["", "Gi", "1X", "1GiB", "many"])
def test_a_quantity_is_not(written: str) -> None:
    with pytest.raises(ValueError, match="is not a quantity"):
        quantity(written)


@pytest.mark.parametrize(
    ("product", "name"),
    [
        ("NVIDIA-L4", "L4"),
        ("nvidia-l4", "L4"),
        ("NVIDIA-A100-SXM4-80GB", "A100-80GB"),
        ("nvidia-a100-80gb", "A100-80GB"),
        ("NVIDIA-A100-SXM4-40GB", "A100"),
        ("NVIDIA-A100-PCIE-40GB", "A100"),
        ("nvidia-tesla-a100", "A100"),
        ("Tesla-V100-SXM2-16GB", "V100"),
        ("Tesla-V100-SXM2-32GB", "V100-32GB"),
        ("Tesla-T4", "T4"),
        ("NVIDIA-H100-80GB-HBM3", "H100"),
        ("nvidia-h100-mega-80gb", "H100"),
        ("NVIDIA-GeForce-RTX-4090", "RTX-4090"),
        ("NVIDIA-L4-SHARED", "L4-SHARED"),
        ("gpu", "GPU"),
    ],
)
def test_people_call_a_product(product: str, name: str) -> None:
    assert gpu_name(product) == name


@pytest.mark.parametrize(
    "kind",
    [
        MachineType(cpus=4, memory_gib=16),
        MachineType(cpus=4, memory_gib=16, arch="arm64"),
        MachineType(cpus=8, memory_gib=32, gpu_product="NVIDIA-A100-SXM4-80GB", gpu_count=8),
        MachineType(cpus=8, memory_gib=32, arch="arm64", gpu_product="gpu", gpu_count=1),
    ],
)
def test_a_name_of_a_size_is_read_back(kind: MachineType) -> None:
    assert read_type(str(kind)) == kind


def test_a_name_of_another_provider_means_nothing() -> None:
    assert read_type("m5.large") is None


# Checks and places.


async def test_each_missing_permission_is_said_with_the_command_that_gives_it(market: KubernetesMarket) -> None:
    market.double.denied |= {("delete", "pods"), ("list", "nodes")}
    report = await market.provider.check()
    assert not report.usable
    assert [finding.remedy for finding in report.findings if not finding.good] == [
        (
            "kubectl create role styx-delete-pods --namespace styx --verb=delete --resource=pods && "
            "kubectl create rolebinding styx-delete-pods --namespace styx --role=styx-delete-pods --user=tester"
        ),
        (
            "kubectl create clusterrole styx-list-nodes --verb=list --resource=nodes && "
            "kubectl create clusterrolebinding styx-list-nodes --clusterrole=styx-list-nodes --user=tester"
        ),
    ]


async def test_a_check_changes_nothing_and_finds_what_only_a_trial_shows(market: KubernetesMarket) -> None:
    assert (await market.provider.check()).usable
    assert market.double.ever == {}
    market.double.pod_quota = 0
    report = await market.provider.check()
    assert next(finding.what for finding in report.findings if not finding.good).startswith(
        "cluster test did not make a pod on trial in namespace styx: pods"
    )


async def test_a_check_of_a_cluster_that_is_away_says_so() -> None:
    provider = KubernetesProvider(KubernetesSettings(kubeconfig="/nowhere/config", contexts={REGION: "test"}))
    report = await provider.check()
    assert not report.usable
    assert report.identity == ""
    assert "/nowhere/config" in report.findings[0].what


async def test_without_contexts_the_current_one_is_the_region(tmp_path: Path) -> None:
    async with open_market(tmp_path, contexts={}) as market:
        machine = await market.provider.rent(order("styx-a1"))
        assert machine.place.region == "test"


async def test_a_context_with_a_slash_needs_a_short_name(tmp_path: Path) -> None:
    async with open_market(tmp_path, contexts={}) as market:
        kubeconfig = tmp_path / "kubeconfig"
        kubeconfig.write_text(kubeconfig.read_text().replace('"test"', '"arn:aws:eks:us-east-1:1:cluster/a"'))
        with pytest.raises(ProviderError, match="setting `contexts`") as caught:
            await market.provider.rent(order("styx-a1"))
        assert caught.value.scope is Scope.PROVIDER


async def test_a_region_that_nobody_named_is_said(market: KubernetesMarket) -> None:
    with pytest.raises(ProviderError, match="no cluster is called 'prod'; there are test"):
        await market.provider.list(DEPLOYMENT, "prod")


# The market of a real server, tried on the double.


def test_a_real_server_is_tested_where_one_is_named() -> None:
    if not os.environ.get("STYX_TEST_KUBECONFIG"):
        pytest.skip("STYX_TEST_KUBECONFIG names no kubeconfig of a kube-apiserver to run test_behaviour.py against")
    assert "kubernetes-real" in MARKETS


async def test_the_market_of_a_real_server_works_on_any_server(tmp_path: Path) -> None:
    double, inside, outside = KubeDouble(), tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    async with serve(double, outside) as kubeconfig, market_at(kubeconfig, inside) as market:
        await market.lose_answer()
        with pytest.raises(ProviderError):
            await market.provider.rent(order("styx-a1", spot=True))
        machine = await market.provider.rent(order("styx-a1", spot=True))
        await market.settle()
        assert [each.state for each in await market.provider.list(DEPLOYMENT, REGION)] == [MachineState.RUNNING]
        await market.preempt(machine.cloud_id)
        assert [each.reason for each in await market.provider.list(DEPLOYMENT, REGION)] == ["preempted"]
        await market.provider.release(machine.place, machine.cloud_id)
        assert [(each.key, each.state) for each in await market.ledger()] == [("styx-a1", MachineState.ENDED)]
        assert await market.provider.offers()
    assert (double.nodes, double.pods) == ({}, {})


# Settings and the manual.


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"tolerations": ("team=ml:Never",)}, "KEY=VALUE:EFFECT"),
        ({"spot_labels": ("spot",)}, "LABEL=VALUE"),
        ({"contexts": {"a/b": "c"}}, "without /"),
    ],
)
def test_settings_that_cannot_be_read_are_refused(wrong: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        KubernetesSettings(**wrong)


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("gpu", Toleration(key="gpu")),
        ("team=ml", Toleration(key="team", value="ml")),
        ("team:NoExecute", Toleration(key="team", effect="NoExecute")),
        ("team=ml:NoSchedule", Toleration(key="team", value="ml", effect="NoSchedule")),
    ],
)
def test_a_toleration_is_written_as_kubectl_writes_taints(text: str, meaning: Toleration) -> None:
    assert KubernetesSettings(tolerations=(text,)).tolerated == (meaning,)


def test_the_manual_grants_what_is_needed_and_nothing_else() -> None:
    text = (ROOT / "docs/providers/kubernetes.md").read_text(encoding="utf-8")
    [manifest] = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    granted = {
        (verb, resource, document["kind"] == "ClusterRole")
        for document in yaml.safe_load_all(manifest)
        for rule in document.get("rules") or ()
        for verb in rule["verbs"]
        for resource in rule["resources"]
    }
    assert granted == {(right.verb, right.resource, right.everywhere) for right in NEEDED}


def test_the_manual_explains_every_setting() -> None:
    text = (ROOT / "docs/providers/kubernetes.md").read_text(encoding="utf-8")
    section = text.split("## Settings")[1].split("\n## ")[0]
    names = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert sorted(names) == sorted(field.name for field in fields(KubernetesSettings))
